"""The chat formats by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from serve_app.chat.formats.base import ChatFormat
from serve_app.chat.formats.names import PHI4
from serve_app.chat.formats.phi4.format import Phi4Format
from serve_app.chat.tokenizer import Tokenizer

FORMATS: Mapping[str, Callable[[Tokenizer], ChatFormat]] = MappingProxyType({PHI4: Phi4Format})


def build_format(tokenizer: Tokenizer, name: str = PHI4) -> ChatFormat:
    """Return a chat format over a tokenizer; raises `KeyError` when the tokenizer lacks one of the format's control tokens."""
    return FORMATS[name](tokenizer)
