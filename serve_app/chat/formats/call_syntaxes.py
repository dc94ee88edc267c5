"""The syntaxes of tool calls by name, and which one a model writes."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from serve_app.chat.formats.base import CallSyntax
from serve_app.chat.formats.names import detect_format
from serve_app.chat.formats.phi4.syntax import Phi4CallSyntax
from serve_app.errors import ModelUnusable

NO_CALLS = "none"
"""The name for a model that calls no tools."""
CALL_SYNTAXES: Mapping[str, Callable[[], CallSyntax]] = MappingProxyType({"phi4": Phi4CallSyntax})


def build_call_syntax(name: str, added: Collection[str]) -> CallSyntax | None:
    """Return the syntax `name` for a vocabulary with these added tokens; None for `none`.

    Raises `ModelUnusable` where the syntax is not served.
    """
    if name != NO_CALLS and name not in CALL_SYNTAXES:
        raise ModelUnusable(f"tool_call_parser: {name} is not served; configure one of {', '.join(CALL_SYNTAXES)} or none")
    return None if name == NO_CALLS else CALL_SYNTAXES[name]()


def detect_call_syntax(template: str, added: Collection[str]) -> str:
    """Return the name of the syntax in which a model with this chat template and these added tokens writes calls, or `none`."""
    return detect_format(added) or NO_CALLS
