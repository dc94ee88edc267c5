"""The chat formats by name, and the choice of a model's format and syntax of calls."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from serve_app.chat.formats.base import ChatFormat
from serve_app.chat.formats.call_syntaxes import NO_CALLS, build_call_syntax, detect_call_syntax
from serve_app.chat.formats.jinja.source import find_template, read_special_tokens
from serve_app.chat.formats.names import FORMAT_TOKENS, detect_format
from serve_app.chat.formats.phi4.format import Phi4Format
from serve_app.chat.tokenizer import Tokenizer
from serve_app.errors import ModelUnusable

FORMATS: Mapping[str, type[Phi4Format]] = MappingProxyType({"phi4": Phi4Format})
"""The formats of a model family's own; all other models have a template."""


def build_format(
    tokenizer: Tokenizer, folder: Path | None = None, *, chat_format: str | None = None, call_parser: str | None = None
) -> ChatFormat:
    """Return a model's chat format: the one named `chat_format`, else phi4 for its control tokens, else the folder's template.

    `call_parser` names the syntax of tool calls; None: by template and control tokens. Raises `ModelUnusable` where the model lacks
    what the format needs.
    """
    added = tokenizer.vocabulary.added
    name = chat_format or detect_format(added) or "jinja"
    if name != "jinja":
        missing = sorted(FORMAT_TOKENS[name].required - added.keys())
        if missing:
            raise ModelUnusable(f"chat_format: {name}: tokenizer.json lacks the control tokens {', '.join(missing)}; leave it out")
        if call_parser not in (None, NO_CALLS, name):
            raise ModelUnusable(f"tool_call_parser: {call_parser} needs chat_format: jinja; the format {name} has its own calls")
        return FORMATS[name](tokenizer, calls=call_parser != NO_CALLS)
    source = None if folder is None else find_template(folder)
    if source is None or folder is None:
        raise ModelUnusable(
            "tokenizer.json has the control tokens of no chat format that is known here, and the model's folder has no chat "
            "template; add a chat_template.jinja, or take the model's instruction-tuned version"
        )
    from serve_app.chat.formats.jinja.format import JinjaFormat  # imports Jinja, which only models with a template need

    syntax = build_call_syntax(call_parser or detect_call_syntax(source.tool_use, added), added)
    built = JinjaFormat(tokenizer, source, read_special_tokens(folder), syntax)
    if call_parser not in (None, NO_CALLS) and not built.capabilities:
        raise ModelUnusable(
            f"{source.file} has a chat template that lists no tools; set tool_call_parser: none, or hermes, with which the system "
            "message lists them"
        )
    return built
