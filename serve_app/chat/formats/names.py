"""The control tokens of each chat format, by name, and the choice of a vocabulary's format. Imports no format's code."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from serve_app.chat.formats.hermes import tokens as hermes
from serve_app.chat.formats.llama3 import tokens as llama3
from serve_app.chat.formats.phi4 import tokens as phi4


@dataclass(frozen=True, slots=True)
class FormatTokens:
    """Names of control tokens in one chat format."""

    control: frozenset[str]
    """Tokens that are control tokens whatever flags a tokenizer's file sets."""
    required: frozenset[str]
    """Tokens without which no conversation can be written; a vocabulary that has them is of this format."""
    turn_end: str
    """The token that ends a turn; empty where none of those known here is in the vocabulary."""


FORMAT_TOKENS: Mapping[str, FormatTokens] = MappingProxyType(
    {"phi4": FormatTokens(control=phi4.CONTROL_TOKENS, required=phi4.REQUIRED_TOKENS, turn_end=phi4.TURN_END)}
)
_CONTROL_TOKENS = (
    phi4.CONTROL_TOKENS
    | hermes.CONTROL_TOKENS
    | llama3.CONTROL_TOKENS
    | {
        *("<tools>", "</tools>", "<|eom_id|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>"),
        *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<start_of_turn>", "<end_of_turn>"),
        *("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        *("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[ARGS]", "[CALL_ID]", "<bos>", "<eos>", "<s>", "</s>"),
    }
)
"""Tokens that structure the prompts and answers of other models, whose files do not always flag them as special."""
_TURN_ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|eot|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|endoftext|>",
)
"""Tokens that end a turn; where a vocabulary has several, the first of them does."""


def detect_format(added: Collection[str]) -> str | None:
    """Return the name of the chat format of a vocabulary with these added tokens; None for a format that is not known here."""
    return next((name for name, tokens in FORMAT_TOKENS.items() if tokens.required.issubset(added)), None)


def find_format_tokens(added: Collection[str]) -> FormatTokens:
    """Return the control tokens of a vocabulary: those of its own chat format, or those that other models use."""
    name = detect_format(added)
    if name is not None:
        return FORMAT_TOKENS[name]
    return FormatTokens(_CONTROL_TOKENS, frozenset(), next((token for token in _TURN_ENDS if token in added), ""))
