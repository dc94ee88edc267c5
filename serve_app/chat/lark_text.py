"""What can be seen in the text of a grammar: patterns beyond ASCII, texts to respell, how often something is repeated. Pure."""

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
"""How a pattern in ASCII names characters beyond it."""


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
    found = [part for part in _PARTS.finditer(text) if part["pattern"] or part["regex"]]
    return any("patternProperties" in part[0] or not part[0].isascii() or _ESCAPED_UNICODE.search(part[0]) for part in found)


def respell_non_ascii(grammar: str, spell: Callable[[str], str]) -> str:
    """Return a Lark grammar with `spell` applied to each of its texts' characters outside ASCII, patterns left alone.

    A reference names a text, though by its bytes: it goes on to name it.
    """

    def spelled(text: str) -> str:
        return "".join(char if char.isascii() else spell(char) for char in text)

    def change(part: re.Match[str]) -> str:
        if not part["text"]:
            return part[0]
        return spelled(_ESCAPED.sub(lambda escape: str(json.loads(f'"{escape[0]}"')), part[0]))

    def rename(reference: re.Match[str]) -> str:
        return _BYTES.sub(lambda run: quote(spelled(unquote(run[0]))), reference[0])

    return _REFERENCE.sub(rename, _PARTS.sub(change, grammar))


_REFERENCE = re.compile(r'(?<!\\)"\$ref": "[^"]*%[^"]*"')
_BYTES = re.compile(r"(?:%[89A-Fa-f][0-9A-Fa-f])+")
_ESCAPED = re.compile(r"(?<!\\)(?:\\u(?!00[0-7])[0-9a-fA-F]{4})+")
"""Characters outside ASCII, a pair of surrogates as one."""


_COUNT = re.compile(r"[{~]\s*(\d{1,18})")
_LEAST = re.compile(r'(?<!\\)"min(?:Length|Items|Properties)":\s*(\d{1,18})')
_MOST_FORCED = 1000
_LONGEST_FORCED = 4000


def find_repeat_counts(lark: str) -> Iterator[int]:
    """Yield how often, at least, a Lark grammar wants something repeated: in patterns, in rules, in schemas."""
    yield from (int(found[1]) for found in _LEAST.finditer(lark))
    yield from (int(found[1]) for found in _COUNT.finditer(_PARTS.sub(lambda part: '""' if part["text"] else part[0], lark)))


def forces_long_text(lark: str) -> bool:
    """Return whether a grammar may force more than a thousand characters in a row; True when in doubt.

    To say which tokens must come next takes llguidance a time that grows with their text, at every step.
    """
    if math.prod(count for count in find_repeat_counts(lark) if count) > _MOST_FORCED:
        return True
    return any(part["text"] and len(part[0]) > _LONGEST_FORCED for part in _PARTS.finditer(lark))


def may_force_tokens(lark: str, control_tokens: Iterable[str]) -> bool:
    """Return whether an engine's own llguidance may tokenize the text that a grammar forces; False when in doubt.

    Forced text comes in the tokens that the model learned, on every engine alike. But these engines' tokenizers make control tokens
    of text that spells one, and text of thousands of characters is tokenized anew at every step, in the loop that serves everybody.
    """
    begins = {token[0] for token in control_tokens}
    spelled = "".join(part[0] for part in _PARTS.finditer(lark) if not part["comment"])
    escaped = "|".join(f"\\\\[xuU]\\{{?0*{ord(char):x}" for char in sorted(begins))
    return not (forces_long_text(lark) or begins & set(spelled) or re.search(escaped, spelled, re.IGNORECASE))
