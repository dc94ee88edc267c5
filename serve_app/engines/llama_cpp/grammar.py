"""Constraints for llama.cpp's own copy of llguidance, in terms of the texts that our GGUF files give their tokens.

A character that no token spells alone is, in those files, a row of private-use characters, one for each of its bytes; see
`serve_app.models.gguf_vocabulary`. So texts in a grammar are respelled. Patterns cannot be: a group of this kind does not claim
`Capability.UNICODE_PATTERNS`.
"""

import json

from llguidance import LLMatcher

from serve_app.chat.constraint import names_unicode_patterns, respell, styled
from serve_app.errors import InvalidRequest
from serve_app.models.gguf_vocabulary import STRAY
from serve_app.types import Choice, Constraint, Grammar, JsonSchema, Regex


def grammar_text(lark: str) -> str:
    """Return what the server takes for a Lark grammar of `lark_of`.

    Where there is no choice llguidance lets llama.cpp tokenize the text that must come. Outside ASCII its BPE then looks for tokens
    that are half a character by the names that they have in other files, and silently drops what it does not find; so there the
    model chooses tokens itself.
    """
    options = "{}" if lark.isascii() else '{"no_forcing": true}'
    return f"%llguidance {options}\n{lark}"


def lark_of(constraint: Constraint, spelled: frozenset[str]) -> str:
    """Return the constraint as a Lark grammar; `spelled` are the characters that a token of their own spells.

    Raises `InvalidRequest` for what a pattern cannot say here.
    """
    if names_unicode_patterns(constraint):
        raise InvalidRequest("patterns must be written in ASCII for the llama.cpp group", param="constraint")
    match constraint:
        case JsonSchema():
            lark = f"start: %json {styled(constraint.schema)}"
        case Regex():
            lark = json.loads(LLMatcher.grammar_from_regex(constraint.pattern))["grammars"][0]["lark_grammar"]
        case Choice():
            lark = "start: " + " | ".join(json.dumps(option, ensure_ascii=False) for option in constraint.options)
        case Grammar():
            lark = constraint.lark
    return respell(lark, lambda char: char if char in spelled else "".join(chr(STRAY + byte) for byte in char.encode()))
