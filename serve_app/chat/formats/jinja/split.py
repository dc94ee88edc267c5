"""Finds the control tokens in a rendered text: those that the template wrote itself, whole. Knows no templates."""

import re
from collections.abc import Mapping

from serve_app.chat.formats.jinja.tracked_text import find_origins
from serve_app.chat.vocabulary import AddedFlags, Vocabulary

_SPACE = "[\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]"
"""White space as the tokenizers library has it."""
_ONE_SPACE = re.compile(_SPACE)
_SPACES_AFTER = re.compile(f"{_SPACE}*")
_OF_TEMPLATE = re.compile(b"\\0+")


class ControlSplitter:
    """Splits rendered texts at the control tokens of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepare the search; of several tokens that begin at one place the longest counts."""
        names = sorted((text for text in vocabulary.added if text), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._ids = {text: token for text, token in vocabulary.added.items() if token in vocabulary.control_ids}
        self._names = {token: text for text, token in self._ids.items()}
        self._flags: Mapping[str, AddedFlags] = vocabulary.added_flags

    def split(self, text: str) -> list[str | int]:
        """Return the ids of control tokens and the text between them, in order.

        A control token counts only where the template wrote all of its characters. White space that a token's flags make part of
        it may be a client's.
        """
        parts: list[str | int] = []
        at = 0
        plain = "".join((text,))
        for run in _OF_TEMPLATE.finditer(find_origins(text)):
            for match in self._pattern.finditer(plain, *run.span()):
                token = self._ids.get(match[0])
                start, end = match.span()
                if token is None or start < at or not self._counts(plain, match):
                    continue
                flags = self._flags.get(match[0], AddedFlags())
                if flags.lstrip:
                    start = max(at, _skip_back(plain, start))
                if flags.rstrip and (spaces := _SPACES_AFTER.match(plain, end)):
                    end = spaces.end()
                if start > at:
                    parts.append(plain[at:start])
                parts.append(token)
                at = end
        if at < len(plain):
            parts.append(plain[at:])
        return parts

    def _counts(self, text: str, match: re.Match[str]) -> bool:
        """Return whether a token that must be a word of its own is one."""
        flags = self._flags.get(match[0])
        if flags is None or not flags.single_word:
            return True
        before, after = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 1]
        return not _is_word(before) and not _is_word(after)

    def find_names(self, text: str) -> list[str]:
        """Return the names of the control tokens that `split` finds, in order."""
        return [self._names[part] for part in self.split(text) if isinstance(part, int)]


def _is_word(char: str) -> bool:
    return bool(re.match(r"\w", char))


def _skip_back(text: str, end: int) -> int:
    start = end
    while start > 0 and _ONE_SPACE.match(text, start - 1):
        start -= 1
    return start
