"""The syntaxes of tool calls by name, and the choice of a model's syntax by its template and tokens."""

import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from serve_app.chat.formats.base import CallSyntax
from serve_app.chat.formats.hermes import tokens as hermes
from serve_app.chat.formats.hermes.syntax import HermesCallSyntax
from serve_app.chat.formats.llama3 import tokens as llama3
from serve_app.chat.formats.llama3.syntax import Llama3CallSyntax
from serve_app.chat.formats.phi4 import tokens as phi4
from serve_app.chat.formats.phi4.syntax import Phi4CallSyntax
from serve_app.errors import ModelUnusable

NO_CALLS = "none"
"""The name for a model that calls no tools."""
_OTHER_BLOCKS = ("<function=", "<arg_key>")
"""Texts of templates whose `<tool_call>` blocks hold no JSON: Qwen3-Coder's and GLM-4.5's."""


def _build_phi4(added: Collection[str]) -> CallSyntax:
    missing = sorted(phi4.MARKERS.keys() - set(added))
    if missing:
        raise ModelUnusable(f"tool_call_parser: phi4 needs the tokens {', '.join(missing)}, which tokenizer.json lacks")
    return Phi4CallSyntax()


CALL_SYNTAXES: Mapping[str, Callable[[Collection[str]], CallSyntax]] = MappingProxyType(
    {"phi4": _build_phi4, "hermes": HermesCallSyntax, "llama3": Llama3CallSyntax}
)
"""Builds each syntax for a vocabulary with the given added tokens."""


def build_call_syntax(name: str, added: Collection[str]) -> CallSyntax | None:
    """Return the syntax `name` for a vocabulary with these added tokens; None for `none`.

    Raises `ModelUnusable` where the vocabulary lacks tokens that the syntax needs.
    """
    return None if name == NO_CALLS else CALL_SYNTAXES[name](added)


def detect_call_syntax(template: str, added: Collection[str]) -> str:
    """Return the name of the syntax of a model with this chat template and these added tokens; `none` where none is recognised."""
    if not re.search(r"\btools\b", template):
        return NO_CALLS
    if phi4.MARKERS.keys() <= set(added):
        return "phi4"
    if hermes.CALL_BEGIN in added or hermes.CALL_BEGIN in template:
        return NO_CALLS if any(each in template for each in _OTHER_BLOCKS) else "hermes"
    has_role = llama3.CALLS_BEGIN in added or llama3.CALLS_BEGIN in template or "ipython" in template
    return "llama3" if has_role and '"parameters"' in template else NO_CALLS
