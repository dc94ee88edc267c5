"""The control tokens of each chat format, by name, and which format a vocabulary is of. Imports no format's code."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serve_app.chat.formats.phi4 import tokens as phi4


@dataclass(frozen=True, slots=True)
class FormatTokens:
    """Names of control tokens in one chat format."""

    control: frozenset[str]
    """Tokens that are control tokens whatever flags a tokenizer's file sets."""
    required: frozenset[str]
    """Tokens without which no conversation can be written; a vocabulary that has them is of this format."""
    turn_end: str
    """The token that ends a turn."""


FORMAT_TOKENS: Mapping[str, FormatTokens] = MappingProxyType(
    {"phi4": FormatTokens(control=phi4.CONTROL_TOKENS, required=phi4.REQUIRED_TOKENS, turn_end=phi4.TURN_END)}
)
_DEFAULT = "phi4"


def detect_format(added: Collection[str]) -> str | None:
    """Return the name of the chat format of a vocabulary with these added tokens; None for a format that is not known here."""
    return next((name for name, tokens in FORMAT_TOKENS.items() if tokens.required.issubset(added)), None)


def format_tokens(added: Collection[str]) -> FormatTokens:
    """Return the control tokens of a vocabulary's chat format; the default format's where it is not known."""
    return FORMAT_TOKENS[detect_format(added) or _DEFAULT]
