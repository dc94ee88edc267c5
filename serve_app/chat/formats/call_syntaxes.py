"""The syntaxes of tool calls by name, and which one a model writes."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from serve_app.chat.formats.base import CallSyntax
from serve_app.chat.formats.names import detect_format
from serve_app.chat.formats.phi4.syntax import Phi4CallSyntax

CALL_SYNTAXES: Mapping[str, Callable[[], CallSyntax]] = MappingProxyType({"phi4": Phi4CallSyntax})


def detect_call_syntax(template: str, added: Collection[str]) -> str:
    """Return the name of the syntax in which a model with this chat template and these added tokens writes calls, or `none`."""
    return detect_format(added) or "none"
