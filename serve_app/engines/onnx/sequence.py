"""One request inside the ONNX engine: its tokens, progress, sampler and guide. Knows no schedule."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve_app.engines.guidance import Guide
from serve_app.engines.onnx.sampling import Sampler
from serve_app.types import Finished, FinishReason, Timings, TokenRequest, Usage


@dataclass(eq=False, slots=True)
class Sequence:
    """One request inside the engine."""

    request: TokenRequest
    limit: int
    """Tokens it may generate."""
    guide: Guide | None = None
    """Keeps it within its constraint."""
    arrived_s: float = field(default_factory=time.monotonic)
    admitted_s: float = 0.0
    first_token_s: float = 0.0
    computed: int = 0
    """Tokens in its cache."""
    reused: int = 0
    """Tokens of `computed` that were found in the prefix cache."""
    generated: int = 0
    pending: int = -1
    """The token to compute next while decoding."""
    unwritten: list[int] = field(default_factory=list)
    """Tokens before `pending` that a constraint forced and whose cache is not computed yet."""
    sampler: Sampler = field(init=False)
    tokens: NDArray[np.int64] = field(init=False)
    """Prompt and generated ids; the first `computed` are in its cache."""

    def __post_init__(self) -> None:
        """Make the sampler and room for the tokens."""
        prompt = self.request.prompt
        self.sampler = Sampler(self.request.sampling, prompt)
        self.tokens = np.zeros(len(prompt) + self.limit, np.int64)
        self.tokens[: len(prompt)] = prompt

    @property
    def prompt(self) -> NDArray[np.int64]:
        """The prompt's ids."""
        return self.tokens[: len(self.request.prompt)]

    @property
    def has_lost_guide(self) -> bool:
        """Whether the guide of an optional constraint failed, so that the answer continues without it."""
        constraint = self.request.constraint
        return self.guide is not None and bool(self.guide.error) and constraint is not None and constraint.optional

    @property
    def unread(self) -> int:
        """Prompt tokens not yet computed."""
        return len(self.request.prompt) - self.computed

    def finish(self, reason: FinishReason) -> Finished:
        """Return the last event, as of now."""
        now = time.monotonic()
        return Finished(
            reason=reason,
            usage=Usage(prompt_tokens=len(self.request.prompt), completion_tokens=self.generated, cached_tokens=self.reused),
            timings=Timings(
                queue_s=self.admitted_s - self.arrived_s,
                prefill_s=self.first_token_s - self.admitted_s,
                decode_s=now - self.first_token_s,
            ),
        )
