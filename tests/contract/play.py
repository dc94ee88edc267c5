"""Requests for engines, and what comes of them."""

import random
from typing import Any

from serve_app.engines.base import Engine
from serve_app.types import Finished, Sampling, TokenDelta, TokenLogprob, TokenRequest

_count = 0


def ask(prompt: tuple[int, ...], **sampling: Any) -> TokenRequest:
    """Return a greedy request of 24 tokens unless `sampling` says otherwise."""
    global _count
    _count += 1
    return TokenRequest(
        request_id=f"t{_count}", prompt=prompt, sampling=Sampling(**{"temperature": 0.0, "max_tokens": 24} | sampling)
    )


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Return `length` ordinary token ids."""
    draw = random.Random(seed * 1009 + length)
    return tuple(draw.randrange(300, 1000) for _ in range(length))


async def play(engine: Engine, request: TokenRequest) -> tuple[tuple[int, ...], Finished, tuple[TokenLogprob, ...]]:
    """Return the tokens, the end and the logprobs; fails unless the one `Finished` comes last."""
    ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    end: Finished | None = None
    async for event in engine.generate(request):
        assert end is None, "nothing may follow Finished"
        if isinstance(event, TokenDelta):
            ids.extend(event.ids)
            logprobs.extend(event.logprobs)
        else:
            end = event
    assert end is not None, "a stream must end with Finished"
    return tuple(ids), end, tuple(logprobs)
