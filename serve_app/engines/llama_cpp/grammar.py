"""Constraints for llama.cpp's own copy of llguidance, spelled as the tokens in our GGUF files are.

Our files spell a character that has no token of its own as several private-use characters, one for each of its bytes; see
`serve_app.files.gguf_vocabulary`. So the texts in a grammar are respelled. Patterns cannot be respelled, so groups of this kind
lack `Capability.UNICODE_PATTERNS`.
"""

from serve_app.chat.grammar import require_lark
from serve_app.chat.lark_text import names_unicode_patterns, respell_non_ascii
from serve_app.errors import InvalidRequest
from serve_app.files.gguf_vocabulary import PRIVATE_USE_START
from serve_app.types import Constraint


def respell_constraint(constraint: Constraint, single_token_characters: frozenset[str]) -> str:
    """Return the constraint's Lark in the file's spelling.

    `single_token_characters` are the characters that have a token of their own. Raises `InvalidRequest` for patterns that are not
    ASCII.
    """
    if names_unicode_patterns(constraint):
        raise InvalidRequest("patterns must be written in ASCII for the llama.cpp group", param="constraint")

    def spell(char: str) -> str:
        return char if char in single_token_characters else "".join(chr(PRIVATE_USE_START + byte) for byte in char.encode())

    return respell_non_ascii(require_lark(constraint), spell)
