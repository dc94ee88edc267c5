"""Inspects the text of grammars: patterns outside ASCII, literals to respell, counts of repetitions. Pure."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, unquote

from serve_app.types import Constraint, Grammar, JsonSchema, OneOf, Regex

_PARTS = re.compile(
    r"""(?P<pattern>"pattern(?:Properties)?"\s*:\s*(?:"(?:\\.|[^"\\])*"|\{))"""
    r"""|(?P<text>"(?:\\.|[^"\\])*")"""
    r"""|(?P<comment>//[^\n]*)"""
    r"""|(?P<regex>/(?:\\.|[^/\\\n])+/)""",
    re.DOTALL,
)
"""The parts of a schema or a Lark grammar that may hold any characters."""


_ESCAPED_UNICODE = re.compile(r"\\(?:u|U|x\{|x[89a-fA-F]|[pP])")
"""Escapes with which a pattern written in ASCII names characters outside ASCII."""


def names_unicode_patterns(constraint: Constraint) -> bool:
    """Return whether a regular expression in the constraint has characters outside ASCII; True when in doubt."""
    match constraint:
        case Regex():
            return not constraint.pattern.isascii() or bool(_ESCAPED_UNICODE.search(constraint.pattern))
        case OneOf():
            return False
        case JsonSchema():
            text = json.dumps(json.loads(constraint.schema), ensure_ascii=False)
        case Grammar():
            text = constraint.lark
    if text.isascii() and not _ESCAPED_UNICODE.search(text):
        return False
    patterns = [part for part in _PARTS.finditer(text) if part["pattern"] or part["regex"]]
    return any("patternProperties" in part[0] or not part[0].isascii() or _ESCAPED_UNICODE.search(part[0]) for part in patterns)


def respell_non_ascii(grammar: str, spell: Callable[[str], str]) -> str:
    """Return a Lark grammar with `spell` applied to each character outside ASCII in its literals; patterns are unchanged.

    References, which name literals by their percent-encoded bytes, are respelled likewise.
    """

    def respell_text(text: str) -> str:
        return "".join(char if char.isascii() else spell(char) for char in text)

    def respell_part(part: re.Match[str]) -> str:
        if not part["text"]:
            return part[0]
        return respell_text(_ESCAPED_CHARS.sub(lambda escape: str(json.loads(f'"{escape[0]}"')), part[0]))

    def respell_reference(reference: re.Match[str]) -> str:
        return _PERCENT_BYTES.sub(lambda run: quote(respell_text(unquote(run[0]))), reference[0])

    return _REFERENCE.sub(respell_reference, _PARTS.sub(respell_part, grammar))


_REFERENCE = re.compile(r'(?<!\\)"\$ref": "[^"]*%[^"]*"')
_PERCENT_BYTES = re.compile(r"(?:%[89A-Fa-f][0-9A-Fa-f])+")
_ESCAPED_CHARS = re.compile(r"(?<!\\)(?:\\u(?!00[0-7])[0-9a-fA-F]{4})+")
"""Characters outside ASCII, a pair of surrogates as one."""


_REPEAT_COUNT = re.compile(r"[{~]\s*(\d{1,18})")
_MIN_KEYWORDS = re.compile(r'(?<!\\)"min(?:Length|Items|Properties)":\s*(\d{1,18})')
_MAX_FORCED_CHARS = 1000
_MAX_LITERAL_CHARS = 4000


def find_repeat_counts(lark: str) -> Iterator[int]:
    """Yield the least counts of repetitions that a Lark grammar demands in patterns, rules and schemas."""
    yield from (int(match[1]) for match in _MIN_KEYWORDS.finditer(lark))
    yield from (int(match[1]) for match in _REPEAT_COUNT.finditer(_PARTS.sub(lambda part: '""' if part["text"] else part[0], lark)))


def forces_long_text(lark: str) -> bool:
    """Return whether a grammar may force more than a thousand characters in a row; True when in doubt.

    At every step llguidance computes the tokens that must come next, in a time that grows with the length of their text.
    """
    if math.prod(count for count in find_repeat_counts(lark) if count) > _MAX_FORCED_CHARS:
        return True
    return any(part["text"] and len(part[0]) > _MAX_LITERAL_CHARS for part in _PARTS.finditer(lark))


def may_force_tokens(lark: str, control_tokens: Iterable[str]) -> bool:
    """Return whether an engine's own llguidance may tokenize the text that a grammar forces; False when in doubt.

    Forced text then has the tokenization that the model was trained on, on every engine. But the engines' tokenizers turn text
    that spells a control token into that token, and they tokenize a text of thousands of characters anew at every step, in the loop
    that serves all requests.
    """
    begins = {token[0] for token in control_tokens}
    literals = "".join(part[0] for part in _PARTS.finditer(lark) if not part["comment"])
    escaped = "|".join(f"\\\\[xuU]\\{{?0*{ord(char):x}" for char in sorted(begins))
    return not (forces_long_text(lark) or begins & set(literals) or re.search(escaped, literals, re.IGNORECASE))
