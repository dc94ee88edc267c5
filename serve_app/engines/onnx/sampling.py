"""Draws one token from one row of logits, with the state that a request's penalties and seed need.

numpy only; knows nothing of the graph. The order of application is documented at `serve_app.types.Sampling`.
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.types import Sampling, TokenLogprob

_GREEDY_BELOW = 1e-5
"""vLLM treats smaller temperatures as greedy too."""


class Sampler:
    """One request's sampler. A seeded one depends on its own logits only, never on neighbours in the batch."""

    def __init__(self, sampling: Sampling, prompt: tuple[int, ...]) -> None:
        """Prepare the generator and the penalties' memory."""
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)
        self._penalised = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)
        self._prompt_ids = np.unique(np.asarray(prompt, np.int64)) if sampling.repetition_penalty != 1.0 else None
        self._counts: dict[int, int] = {}
        self._bias_ids = np.fromiter(sampling.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float32)
        self._stop_ids = np.asarray(sampling.stop_token_ids, np.int64)
        self._drawn = 0

    def draw(self, logits: NDArray[np.float32]) -> tuple[int, TokenLogprob | None]:
        """Return the next token of logits (V,), and its logprob if asked for. Does not change `logits`."""
        shaped = self._shape(logits)
        token = int(shaped.argmax()) if self._sampling.temperature < _GREEDY_BELOW else self._pick(shaped)
        self._drawn += 1
        if self._penalised:
            self._counts[token] = self._counts.get(token, 0) + 1
        if self._sampling.logprobs is None:
            return token, None
        return token, _logprob(logits, token, self._sampling.logprobs)

    def _shape(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply bias, the minimum length and penalties to a copy, or return `logits` where none applies."""
        holds_stop = self._drawn < self._sampling.min_tokens and self._stop_ids.size > 0
        if not (self._penalised or self._bias_ids.size or holds_stop):
            return logits
        shaped = logits.copy()
        if self._bias_ids.size:
            shaped[self._bias_ids] += self._bias
        if holds_stop:
            shaped[self._stop_ids] = -np.inf
        if self._penalised:
            self._penalise(shaped)
        return shaped

    def _penalise(self, shaped: NDArray[np.float32]) -> None:
        ids = np.fromiter(self._counts.keys(), np.int64)
        if self._prompt_ids is not None:
            seen = np.union1d(self._prompt_ids, ids)
            values, penalty = shaped[seen], np.float32(self._sampling.repetition_penalty)
            shaped[seen] = np.where(values > 0, values / penalty, values * penalty)
        if ids.size:
            counts = np.fromiter(self._counts.values(), np.float32)
            shaped[ids] -= self._sampling.presence_penalty + self._sampling.frequency_penalty * counts

    def _pick(self, shaped: NDArray[np.float32]) -> int:
        """Draw by inverse cumulative distribution over the tokens that min_p, top_k and top_p leave."""
        sampling = self._sampling
        scaled = shaped / np.float32(sampling.temperature)
        if sampling.min_p > 0.0:
            scaled[scaled < scaled.max() + np.log(np.float32(sampling.min_p))] = -np.inf
        ids: NDArray[np.int64] | None = None
        if 0 < sampling.top_k < scaled.size:
            ids = np.argpartition(scaled, -sampling.top_k)[-sampling.top_k :]
            scaled = scaled[ids]
        weights = np.exp(scaled - scaled.max(), dtype=np.float64)
        if sampling.top_p < 1.0:
            order = np.argsort(-weights, kind="stable")
            mass = np.cumsum(weights[order])
            keep = int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1
            weights[order[keep:]] = 0.0
        mass = np.cumsum(weights)
        at = int(np.searchsorted(mass, self._rng.random() * mass[-1], side="right"))
        at = min(at, weights.size - 1)
        return int(ids[at]) if ids is not None else at


def _logprob(logits: NDArray[np.float32], token: int, count: int) -> TokenLogprob:
    """Log-softmax of the raw logits at `token` and at the `count` likeliest."""
    peak = logits.max()
    norm = float(peak) + float(np.log(np.exp((logits - peak).astype(np.float64)).sum()))
    top: tuple[tuple[int, float], ...] = ()
    if count:
        ids = np.argpartition(logits, -min(count, logits.size))[-count:]
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        top = tuple((int(i), float(logits[i]) - norm) for i in ids)
    return TokenLogprob(token, float(logits[token]) - norm, top)
