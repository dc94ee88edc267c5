"""Checks that a new variant could answer at all. Knows no gateway, tokenizer or chat format; its model counts tokens for it."""

from collections.abc import Callable

from serve_app import parameters as ollama
from serve_app.chat import go_template
from serve_app.conversation import Chat, Message
from serve_app.models.variant import Variant
from serve_app.types import InvalidValue


def require_usable(variant: Variant, count_least: Callable[[Chat], int]) -> None:
    """Raise `InvalidValue`, naming parameter or template, when even the shortest question to `variant` alone would be refused.

    `count_least` returns the tokens that the prompt of a chat has at least.
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
    least = count_least(shortest)
    if window <= least:
        raise InvalidValue("num_ctx", f"is {window}, but with the system prompt the shortest prompt has {least} tokens")
