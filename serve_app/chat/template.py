"""Renders a chat as Phi-4's prompt: `<|role|>content<|end|>` per message, then `<|assistant|>`.

Control tokens are placed as ids and content is encoded with control tokens off, so no text a user or a tool sends can open a
turn of another role. Knows no engine and no dialect.
"""

from serve_app.chat.tokenizer import Tokenizer
from serve_app.types import Chat

ROLES = ("system", "developer", "user", "assistant")
_ROLE_TOKENS = {"system": "<|system|>", "developer": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}


class ChatTemplate:
    """The renderer over one tokenizer; raises `KeyError` at construction when a control token is missing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look the control tokens up once."""
        self._tokenizer = tokenizer
        self._role_ids = {role: tokenizer.token_id(token) for role, token in _ROLE_TOKENS.items()}
        self._end = tokenizer.token_id("<|end|>")

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """Return the prompt's token ids. `developer` is another name of `system`."""
        ids: list[int] = []
        for message in chat.messages:
            ids.append(self._role_ids[message.role])
            ids.extend(await self._tokenizer.encode_async(message.content, special=False))
            ids.append(self._end)
        ids.append(self._role_ids["assistant"])
        return tuple(ids)
