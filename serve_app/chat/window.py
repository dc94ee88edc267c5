"""Drops the oldest turns of a conversation until its prompt fits into the context that a client asked for, as Ollama does.

System messages and the last turn stay. Where the answer continues the last turn, the question before it stays too. Knows no chat
format, group or dialect.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from serve_app.conversation import Chat, Ending, Message
from serve_app.types import InvalidValue

_KEPT_ROLES = ("system", "developer")


async def fit_to_window(
    render: Callable[[Chat], Awaitable[tuple[int, ...]]], chat: Chat, window: int
) -> tuple[tuple[int, ...], int]:
    """Return the prompt's token ids and how many messages were dropped, the fewest that make it shorter than `window` tokens.

    The kept turns begin with a user's turn, or are the last message alone; where even that is too long, its ids are returned, and
    the whole prompt's where the format takes no such message alone. Raises what `render` raises.
    """
    ids = await render(chat)
    if len(ids) < window:
        return ids, 0
    starts = _list_starts(chat)
    low, high = 0, len(starts) - 1
    shortest = 0
    while low <= high:  # the later the start, the shorter the prompt
        middle = (low + high) // 2
        kept = _keep_from(chat.messages, starts[middle])
        try:
            rendered = await render(replace(chat, messages=kept))
        except InvalidValue:
            if chat.messages[starts[middle]].role == "user":
                raise
            break  # the format takes no last message alone
        if len(rendered) < window or middle == len(starts) - 1:
            ids, shortest = rendered, len(chat.messages) - len(kept)
        if len(rendered) < window:
            high = middle - 1
        else:
            low = middle + 1
    return ids, shortest


def _list_starts(chat: Chat) -> list[int]:
    """Return the positions at which the kept turns may begin, without the first one, which drops nothing."""
    turns = [at for at, message in enumerate(chat.messages) if message.role not in _KEPT_ROLES]
    alone = chat.ending is not Ending.CONTINUED
    return [at for at in turns[1:] if chat.messages[at].role == "user" or (alone and at == turns[-1])]


def _keep_from(messages: tuple[Message, ...], start: int) -> tuple[Message, ...]:
    return tuple(message for at, message in enumerate(messages) if at >= start or message.role in _KEPT_ROLES)
