"""The control tokens of each chat format, by name, for readers of a model's files. Imports no format's code."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serve_app.chat.formats.phi4 import tokens as phi4


@dataclass(frozen=True, slots=True)
class FormatTokens:
    """Names of control tokens in one chat format."""

    control: frozenset[str]
    """Tokens that are control tokens whatever flags a tokenizer's file sets."""
    turn_end: str
    """The token that ends a turn."""


PHI4 = "phi4"
FORMAT_TOKENS: Mapping[str, FormatTokens] = MappingProxyType(
    {PHI4: FormatTokens(control=phi4.CONTROL_TOKENS, turn_end=phi4.TURN_END)}
)
DEFAULT = FORMAT_TOKENS[PHI4]
"""The tokens of the one format there is."""
