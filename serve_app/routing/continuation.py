"""Continues an answer in another engine: keeps its tokens so far, and builds the request for the remaining ones. Pure.

The next engine gets the prompt and the tokens so far as its prompt, and what remains of the limits. The answer is that of an
undisturbed run wherever the next token depends only on the tokens before it. Where it also depends on which of these were
generated, or on the state of a random generator, there is no continuation: see `find_obstacle`.
"""

from dataclasses import replace

from serve_app.types import Finished, FinishReason, Placement, Timings, TokenDelta, TokenEvent, TokenRequest, Usage


class Continuation:
    """One answer under way.

    Contract: every event of every engine goes through `add`, in order; the next engine gets `build_request`, unless the answer
    `is_complete`.
    """

    def __init__(self, request: TokenRequest) -> None:
        """Begin with nothing generated."""
        self._request = request
        self._ids: list[int] = []
        self._first_token_s: float | None = None

    @property
    def begun(self) -> bool:
        """Whether a token has come."""
        return bool(self._ids)

    def add(self, event: TokenEvent, now: float) -> TokenEvent:
        """Add an event of the current engine; return it with the counts and times of an undisturbed run."""
        if isinstance(event, TokenDelta):
            self._first_token_s = now if self._first_token_s is None else self._first_token_s
            self._ids += event.ids
            return event
        prompt = len(self._request.prompt)
        before = event.usage.prompt_tokens - prompt
        if before <= 0:
            return event
        usage = Usage(
            prompt_tokens=prompt,
            completion_tokens=before + event.usage.completion_tokens,
            cached_tokens=min(event.usage.cached_tokens, prompt),
        )
        return replace(event, usage=usage, timings=replace(event.timings, decode_s=now - (self._first_token_s or now)))

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self._request.prompt) + len(self._ids)

    def is_complete(self, context_length: int) -> bool:
        """Return whether every token the limits and `context_length` allow has arrived and only `Finished` is missing."""
        limit = self._request.sampling.max_tokens
        return self.begun and (self.length >= context_length or (limit is not None and len(self._ids) >= limit))

    def build_request(self, placement: Placement, attempt: int) -> TokenRequest:
        """Return the request for the engine of attempt number `attempt`."""
        if attempt == 1:
            return self._request.with_placement(placement)
        sampling, count = self._request.sampling, len(self._ids)
        return replace(
            self._request,
            request_id=f"{self._request.request_id}-{attempt}",  # an engine may still be ending the previous one
            prompt=(*self._request.prompt, *self._ids),
            sampling=replace(
                sampling,
                max_tokens=None if sampling.max_tokens is None else sampling.max_tokens - count,
                min_tokens=max(0, sampling.min_tokens - count),
            ),
            placement=placement,
        )

    def finish(self, now: float) -> Finished:
        """Return the end of a complete answer whose engine failed before `Finished`."""
        return Finished(
            reason=FinishReason.LENGTH,
            usage=Usage(prompt_tokens=len(self._request.prompt), completion_tokens=len(self._ids)),
            timings=Timings(decode_s=now - (self._first_token_s or now)),
        )


def find_obstacle(request: TokenRequest) -> str:
    """Return why another engine cannot continue an answer that has begun; empty when it can.

    An unseeded sample continues with a fresh draw, which is as good as the first one. A seeded sample would differ from the one
    that its seed promises.
    """
    sampling = request.sampling
    if request.constraint is not None:
        return "it is constrained to a format whose state died with the engine"
    if sampling.presence_penalty or sampling.frequency_penalty:
        return "presence and frequency penalties count what one engine generated"
    if sampling.seed is not None and not sampling.greedy:
        return "its seed promises the same tokens every time"
    return ""
