"""The markers of the syntax: in some vocabularies they are added tokens, in others only text."""

from types import MappingProxyType

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"
CALL_BEGIN_MARK, CALL_END_MARK = "\ufdd0", "\ufdd1"
"""Code points that stand for the two markers in the text that the parser reads; they are no characters."""
MARKERS = MappingProxyType({CALL_BEGIN: CALL_BEGIN_MARK, CALL_END: CALL_END_MARK})
CONTROL_TOKENS = frozenset((CALL_BEGIN, CALL_END, "<tool_response>", "</tool_response>"))
"""Added tokens that are control tokens whatever the tokenizer's file flags: a client's text must not open a call or a result."""
