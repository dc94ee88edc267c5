"""The chat formats by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from serve_app.chat.formats.base import ChatFormat
from serve_app.chat.formats.names import FORMAT_TOKENS, detect_format
from serve_app.chat.formats.phi4.format import Phi4Format
from serve_app.chat.tokenizer import Tokenizer
from serve_app.errors import ModelUnusable

FORMATS: Mapping[str, Callable[[Tokenizer], ChatFormat]] = MappingProxyType({"phi4": Phi4Format})


def build_format(tokenizer: Tokenizer) -> ChatFormat:
    """Return the chat format that a tokenizer is of; raises `ModelUnusable` when its control tokens are those of none."""
    name = detect_format(tokenizer.vocabulary.added)
    if name is None:
        missing = {each: sorted(tokens.required - tokenizer.vocabulary.added.keys()) for each, tokens in FORMAT_TOKENS.items()}
        reasons = "; ".join(f"for {each} it lacks {', '.join(names)}" for each, names in missing.items())
        raise ModelUnusable(f"tokenizer.json has the control tokens of no chat format that is known here: {reasons}")
    return FORMATS[name](tokenizer)
