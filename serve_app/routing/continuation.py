"""An answer that several engines may write one after the other: what exists of it, and what is left to ask for. Pure.

The next engine gets the prompt and the tokens so far as its prompt, and only the rest of the limits. That gives what an undisturbed
run would have given wherever the next token depends on the tokens before it alone. Where it also depends on which of them were
generated, or on a generator's state, there is no continuation: see `find_obstacle`.
"""

from dataclasses import replace

from serve_app.types import Finished, FinishReason, Placement, Timings, TokenDelta, TokenEvent, TokenRequest, Usage


class Continuation:
    """One answer under way.

    Contract: every event of every engine goes through `take`, in order; `rest` is what the next engine is asked, unless the answer
    is `complete`.
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

    def take(self, event: TokenEvent, now: float) -> TokenEvent:
        """Return the event as an undisturbed run would have told it."""
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

    def complete(self, context_length: int) -> bool:
        """Tell whether nothing but its end is missing from an engine with that context."""
        limit = self._request.sampling.max_tokens
        return self.begun and (self.length >= context_length or (limit is not None and len(self._ids) >= limit))

    def rest(self, placement: Placement, attempt: int) -> TokenRequest:
        """Return what the `attempt`-th engine is asked."""
        if attempt == 1:
            return self._request.with_placement(placement)
        sampling, count = self._request.sampling, len(self._ids)
        return replace(
            self._request,
            request_id=f"{self._request.request_id}-{attempt}",  # an engine may still be busy ending the one before
            prompt=(*self._request.prompt, *self._ids),
            sampling=replace(
                sampling,
                max_tokens=None if sampling.max_tokens is None else sampling.max_tokens - count,
                min_tokens=max(0, sampling.min_tokens - count),
            ),
            placement=placement,
        )

    def full(self, now: float) -> Finished:
        """Return the end of an answer whose last token came, but not its end."""
        return Finished(
            reason=FinishReason.LENGTH,
            usage=Usage(prompt_tokens=len(self._request.prompt), completion_tokens=len(self._ids)),
            timings=Timings(decode_s=now - (self._first_token_s or now)),
        )


def find_obstacle(request: TokenRequest) -> str:
    """Return why an answer cannot go on elsewhere once it has begun; empty when it can.

    An unseeded sample goes on with a fresh draw, which is as good as the first one. A seeded one would not be what its seed
    promises.
    """
    sampling = request.sampling
    if request.constraint is not None:
        return "it is held to a format whose state died with the engine"
    if sampling.presence_penalty or sampling.frequency_penalty:
        return "presence and frequency penalties count what one engine generated"
    if sampling.seed is not None and not sampling.greedy:
        return "its seed promises the same tokens every time"
    return ""
