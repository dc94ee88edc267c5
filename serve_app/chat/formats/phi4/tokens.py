"""The names of the format's control tokens; the model's file gives their ids."""

from types import MappingProxyType

CONTROL_TOKENS = frozenset(
    (
        "<|endoftext|>",
        "<|endofprompt|>",
        "<|assistant|>",
        "<|end|>",
        "<|user|>",
        "<|system|>",
        "<|tool|>",
        "<|/tool|>",
        "<|tool_call|>",
        "<|/tool_call|>",
        "<|tool_response|>",
        "<|tag|>",
    )
)
"""Control tokens whatever the file flags: published copies of the tokenizer disagree about the tool tokens."""
TURN_END = "<|end|>"
TEXT_END = "<|endoftext|>"
TOOLS_BEGIN, TOOLS_END = "<|tool|>", "<|/tool|>"
CALLS_BEGIN, CALLS_END = "<|tool_call|>", "<|/tool_call|>"
CALLS_BEGIN_MARK, CALLS_END_MARK = "\ufdd0", "\ufdd1"
"""Code points that stand for the two tokens in the text that the parser reads; they are no characters."""
MARKERS = MappingProxyType({CALLS_BEGIN: CALLS_BEGIN_MARK, CALLS_END: CALLS_END_MARK})
ROLE_TOKENS = MappingProxyType(
    {
        "system": "<|system|>",
        "developer": "<|system|>",
        "user": "<|user|>",
        "assistant": "<|assistant|>",
        "tool": "<|tool|>",
    }
)
REQUIRED_TOKENS = frozenset((*ROLE_TOKENS.values(), TURN_END, TOOLS_BEGIN, TOOLS_END, CALLS_BEGIN, CALLS_END))
"""A vocabulary that has these is of this format."""
