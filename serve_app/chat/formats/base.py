"""What a chat format is. Knows no model, engine or dialect."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from serve_app.chat.answer_parser import CallParser
from serve_app.conversation import AnswerForm, Chat, Tool
from serve_app.types import Constraint


class ChatFormat(Protocol):
    """Renders conversations for one tokenizer, and says which constraint and which parser an answer needs."""

    go_template: str
    """The format's prompt in Ollama's template language, for clients that ask for it."""
    capabilities: tuple[str, ...]
    """What models of this format can do, in Ollama's words: `tools`."""
    markers: Mapping[str, str]
    """Control tokens that belong to the answer, such as the marker of a tool call, by name. Each value is a code point that is no
    character and stands for the token in the text that a parser reads: text that only spells the name is not the token."""

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """Return the prompt's token ids; raises `InvalidValue` for a template that cannot be run."""
        ...

    def least_tokens(self, chat: Chat) -> int:
        """Return how many control tokens at least the prompt of `chat` has beside the tokens of its text."""
        ...

    def constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """Return what an answer in `form` must look like; None: anything. Raises `ValueError` for an unreadable pattern."""
        ...

    def call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """Return the parser of calls to `tools` in one answer; with `begun` the prompt holds the beginning of its text."""
        ...
