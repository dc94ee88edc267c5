"""Runs a model's chat templates over conversations: chats in, text with origins out. Knows no token ids."""

import re
from collections.abc import Mapping
from typing import Any

from serve_app.chat.formats.jinja.source import TemplateSource
from serve_app.chat.formats.jinja.template import CannotRender, ChatTemplate
from serve_app.chat.formats.jinja.tracked_text import CUT, find_origins
from serve_app.chat.formats.jinja.variables import CONTINUE_MARK, EARLIER_ANSWER, CallEncoding, build_messages, build_tools, measure
from serve_app.conversation import Chat, Ending

_DEVELOPER = re.compile(r"""["']developer["']""")


class Renderer:
    """The templates of one model."""

    def __init__(self, source: TemplateSource, special_tokens: Mapping[str, str]) -> None:
        """Compile them; raises `ModelUnusable` where that fails."""
        self._source = source
        self._special_tokens = special_tokens
        self._default = ChatTemplate(source.default, source.file)
        same = source.tool_use == source.default
        self._tool_use = self._default if same else ChatTemplate(source.tool_use, source.file)
        self.variables = self._default.variables | self._tool_use.variables
        """Names that the templates read."""
        self.call_encoding = CallEncoding()
        """How the templates take tool calls."""

    def render(self, chat: Chat) -> str:
        """Return the prompt's text, cut where an answer continues it and after the conversation so far; raises `CannotRender`."""
        text = (self._tool_use if chat.tools else self._default).render(self._build_variables(chat), measure(chat))
        if chat.ending is Ending.CONTINUED:
            text = _cut_at_mark(text)
        return _cut_earlier(text) if chat.context else text

    def _build_variables(self, chat: Chat) -> dict[str, Any]:
        developer = _DEVELOPER.search(self._source.tool_use if chat.tools else self._source.default) is not None
        variables: dict[str, Any] = {
            **self._special_tokens,
            "messages": build_messages(chat, developer=developer, encoding=self.call_encoding),
            "tools": build_tools(chat.tools),
            "documents": None,
            "add_generation_prompt": chat.ending is Ending.OPENED,
        }
        return variables if chat.think is None else {**variables, "enable_thinking": chat.think}


def _cut_at_mark(text: str) -> str:
    """Return the text before the last mark; without the white space before it where the template has trimmed the mark's own."""
    whole, name = "".join((text,)), CONTINUE_MARK.strip()
    found = [at for at in _find(whole, name) if find_origins(text)[at : at + len(name)] == CUT * len(name)]
    if not found:
        raise CannotRender("it leaves out the message that the answer is to continue", refused=True)
    before = text[: found[-1]]
    return before if whole.startswith(CONTINUE_MARK, found[-1]) else before[: len(before.rstrip())]


def _cut_earlier(text: str) -> str:
    """Return the text after the answer that stands for the conversation so far."""
    whole = "".join((text,))
    for at in _find(whole, EARLIER_ANSWER):
        end = at + len(EARLIER_ANSWER)
        if find_origins(text)[at:end] == CUT * len(EARLIER_ANSWER):
            return text[end:]
    raise CannotRender("it leaves out the conversation so far", refused=True)


def _find(text: str, part: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(part), text)]
