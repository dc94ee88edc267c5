"""Constraints for llama.cpp's own copy of llguidance, in terms of the texts that our GGUF files give their tokens.

A character that no token spells alone is, in those files, a row of private-use characters, one for each of its bytes; see
`serve_app.files.gguf_vocabulary`. So texts in a grammar are respelled. Patterns cannot be: a group of this kind does not claim
`Capability.UNICODE_PATTERNS`.
"""

from serve_app.chat.grammar import require_lark
from serve_app.chat.lark_text import names_unicode_patterns, respell_non_ascii
from serve_app.errors import InvalidRequest
from serve_app.files.gguf_vocabulary import STRAY
from serve_app.types import Constraint


def respelled(constraint: Constraint, spelled: frozenset[str]) -> str:
    """Return the constraint's Lark in the file's spelling; `spelled` are the characters that a token of their own spells.

    Raises `InvalidRequest` for what a pattern cannot say here.
    """
    if names_unicode_patterns(constraint):
        raise InvalidRequest("patterns must be written in ASCII for the llama.cpp group", param="constraint")

    def spell(char: str) -> str:
        return char if char in spelled else "".join(chr(STRAY + byte) for byte in char.encode())

    return respell_non_ascii(require_lark(constraint), spell)
