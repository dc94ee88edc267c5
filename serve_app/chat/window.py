"""Leaves out the oldest turns of a conversation until its prompt fits into the context that a client asked for, as Ollama does.

System messages stay, and so does the last turn; where the answer continues that turn, the question before it stays as well. Knows
no chat format, group or dialect.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from serve_app.conversation import Chat, Ending, Message

_KEPT_ROLES = ("system", "developer")


async def fit_to_window(
    render: Callable[[Chat], Awaitable[tuple[int, ...]]], chat: Chat, window: int
) -> tuple[tuple[int, ...], int]:
    """Return the prompt's token ids and how many messages were left out of it, the fewest that leave room below `window` tokens.

    What is kept begins with a user's turn, or is the last message alone; where even that is too long, its ids are returned.
    Raises what `render` raises.
    """
    ids = await render(chat)
    if len(ids) < window:
        return ids, 0
    starts = _starts(chat)
    low, high = 0, len(starts) - 1
    shortest = 0
    while low <= high:  # the later the start, the shorter the prompt
        middle = (low + high) // 2
        kept = _since(chat.messages, starts[middle])
        found = await render(replace(chat, messages=kept))
        if len(found) < window or middle == len(starts) - 1:
            ids, shortest = found, len(chat.messages) - len(kept)
        if len(found) < window:
            high = middle - 1
        else:
            low = middle + 1
    return ids, shortest


def _starts(chat: Chat) -> list[int]:
    """Return where the kept turns may begin, all but the first place, which is the whole."""
    turns = [at for at, message in enumerate(chat.messages) if message.role not in _KEPT_ROLES]
    alone = chat.ending is not Ending.CONTINUED
    return [at for at in turns[1:] if chat.messages[at].role == "user" or (alone and at == turns[-1])]


def _since(messages: tuple[Message, ...], start: int) -> tuple[Message, ...]:
    return tuple(message for at, message in enumerate(messages) if at >= start or message.role in _KEPT_ROLES)
