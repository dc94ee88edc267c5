"""Checks that a new variant could answer at all. Knows no gateway; gets the tokenizer as a function."""

from collections.abc import Callable

from serve_app import parameters as ollama
from serve_app.chat import go_template
from serve_app.conversation import Chat, Message
from serve_app.models.variant import Variant
from serve_app.types import InvalidValue

_MESSAGE_MARK_TOKENS = 2
"""Tokens around a message, for its role and its end."""


def require_usable(variant: Variant, count_tokens: Callable[[str], int]) -> None:
    """Raise `InvalidValue`, naming parameter or template, when even the shortest question to `variant` alone would be refused.

    `count_tokens` returns the tokens of a text.
    """
    settings = variant.settings
    ollama.require_usable(settings.parameters)
    shortest = variant.complete_prompt(Chat(messages=(Message(role="user", content="x"),)))
    assert isinstance(shortest, Chat)
    if settings.template:
        if not go_template.parse(settings.template).render(shortest, "", {}):
            raise InvalidValue("template", "leaves the prompt empty; it needs .Prompt or .Messages")
        return
    window = ollama.read_window(settings.parameters)
    if window is None or not settings.system:
        return
    least = count_tokens(settings.system) + _MESSAGE_MARK_TOKENS + ollama.SHORTEST_PROMPT_TOKENS
    if window <= least:
        raise InvalidValue("num_ctx", f"is {window}, but with the system prompt the shortest prompt has {least} tokens")
