"""The marker that may stand before calls."""

from types import MappingProxyType

CALLS_BEGIN = "<|python_tag|>"
CALLS_BEGIN_MARK = "\ufdd0"
"""A code point that stands for the marker in the text that the parser reads; it is no character."""
MARKERS = MappingProxyType({CALLS_BEGIN: CALLS_BEGIN_MARK})
CONTROL_TOKENS = frozenset(MARKERS)
"""Added tokens that are control tokens whatever the tokenizer's file flags."""
