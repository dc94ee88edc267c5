"""The interfaces of a chat format and of the syntax in which a model writes tool calls. Knows no model, engine or dialect."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from serve_app.chat.answer_parser import CallParser
from serve_app.conversation import AnswerForm, Chat, Tool
from serve_app.types import Constraint


class CallSyntax(Protocol):
    """How a family of models writes tool calls: the constraint of an answer that may call, and the parser of its calls."""

    markers: Mapping[str, str]
    """As `ChatFormat.markers`."""
    tools_as_text: Callable[[Chat], Chat] | None
    """Rewrites a chat so that its messages list the tools, for a template that lists none. None: only a template can list them."""

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """Return the constraint of an answer in `form`; None: any text. Raises `ValueError` for an unreadable pattern."""
        ...

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """Return the parser of calls to `tools` in one answer; with `begun` the prompt holds the beginning of its text."""
        ...


class ChatFormat(Protocol):
    """Renders conversations for one tokenizer, and supplies the constraint and the parser of an answer."""

    go_template: str
    """The format's prompt in Ollama's template language, for clients that ask for it."""
    capabilities: tuple[str, ...]
    """Capabilities of the format's models, in Ollama's words: `tools`."""
    markers: Mapping[str, str]
    """Control tokens that belong to the answer, such as the marker of a tool call, by name. Each value is a code point that is no
    character and stands for the token in the text that a parser reads, so that text with the same spelling is not the token."""

    keeps_text: bool
    """Whether every message and tool stands in the prompt unchanged, so that a prompt has at least the tokens of their text."""
    switches_thoughts: bool
    """Whether the prompt itself asks the model to think or not, by `Chat.think`."""

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """Return the prompt's token ids; raises `InvalidValue` where a template cannot be run or refuses the chat."""
        ...

    def count_control_tokens(self, chat: Chat) -> int:
        """Return the least number of control tokens in the prompt of `chat`, beside the tokens of its text."""
        ...

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """Return the constraint of an answer in `form`; None: any text. Raises `ValueError` for an unreadable pattern."""
        ...

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """Return the parser of calls to `tools` in one answer; with `begun` the prompt holds the beginning of its text."""
        ...
