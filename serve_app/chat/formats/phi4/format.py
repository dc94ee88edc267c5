"""Phi-4-mini's chat format: prompts, constraints and parsers. See `serve_app.chat.formats.base`."""

from serve_app.chat.formats.phi4.render import GO_TEMPLATE, Phi4Template
from serve_app.chat.formats.phi4.syntax import Phi4CallSyntax
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, Ending


class Phi4Format(Phi4CallSyntax):
    """The format over one tokenizer; raises `KeyError` at construction when a control token is missing."""

    go_template = GO_TEMPLATE
    keeps_text = True
    switches_thoughts = False

    def __init__(self, tokenizer: Tokenizer, *, calls: bool = True) -> None:
        """Look up the control tokens once; without `calls` the model is offered no tools."""
        self.capabilities: tuple[str, ...] = ("tools",) if calls else ()
        self._template = Phi4Template(tokenizer)

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """See `ChatFormat.render`."""
        return await self._template.render(chat)

    def count_control_tokens(self, chat: Chat) -> int:
        """See `ChatFormat.count_control_tokens`: a message has its role and its end, and an opened answer adds a role."""
        return 2 * len(chat.messages) + len(chat.context) + _END_TOKENS[chat.ending]


_END_TOKENS = {Ending.OPENED: 1, Ending.CONTINUED: -1, Ending.CLOSED: 0}
"""Control tokens that the end of a prompt adds."""
