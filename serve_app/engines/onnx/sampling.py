"""Draws one token from one row of logits; keeps the state of a request's penalties and seed.

numpy only; knows nothing of the graph. The order of application is documented at `serve_app.types.Sampling`.
"""

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from serve_app.types import Sampling, TokenLogprob, clamp_logprob

_GREEDY_BELOW = 1e-5
"""vLLM treats smaller temperatures as greedy too."""


class Sampler:
    """One request's sampler. A seeded one depends on its own logits only, never on neighbours in the batch."""

    def __init__(self, sampling: Sampling, prompt: tuple[int, ...]) -> None:
        """Prepare the generator and the counts for penalties."""
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)
        self._penalised = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (1.0, 0.0, 0.0)
        self._prompt_ids = np.unique(np.asarray(prompt, np.int64)) if sampling.repetition_penalty != 1.0 else None
        self._counts: dict[int, int] = {}
        self._bias_ids = np.fromiter(sampling.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float32)
        self._stop_ids = np.asarray(sampling.stop_token_ids, np.int64)
        self._drawn = 0

    def draw(self, logits: NDArray[np.float32], *, raw: NDArray[np.float32] | None = None) -> tuple[int, TokenLogprob | None]:
        """Return the next token of logits (V,), and its logprob if asked for. Does not change `logits`.

        `raw` are the logits before a constraint's mask; logprobs are computed from them.
        """
        adjusted = self._adjust(logits)
        greedy = self._sampling.greedy or self._sampling.temperature < _GREEDY_BELOW
        token = int(adjusted.argmax()) if greedy else self._sample(adjusted)
        self.record((token,))
        if self._sampling.logprobs is None:
            return token, None
        return token, _compute_logprob(logits if raw is None else raw, token, self._sampling.logprobs)

    def record(self, tokens: Iterable[int]) -> None:
        """Count generated tokens, also those that were not drawn here."""
        for token in tokens:
            self._drawn += 1
            if self._penalised:
                self._counts[token] = self._counts.get(token, 0) + 1

    def _adjust(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply bias, the minimum length and penalties to a copy, or return `logits` where none applies."""
        forbids_stops = self._drawn < self._sampling.min_tokens and self._stop_ids.size > 0
        if not (self._penalised or self._bias_ids.size or forbids_stops):
            return logits
        adjusted = logits.copy()
        if self._bias_ids.size:
            adjusted[self._bias_ids] += self._bias
        if forbids_stops:
            kept = adjusted[self._stop_ids]
            adjusted[self._stop_ids] = -np.inf
            if adjusted.max() == -np.inf:  # a constraint that allows only stop tokens wins
                adjusted[self._stop_ids] = kept
        if self._penalised:
            self._penalise(adjusted)
        return adjusted

    def _penalise(self, adjusted: NDArray[np.float32]) -> None:
        ids = np.fromiter(self._counts.keys(), np.int64)
        if self._prompt_ids is not None:
            seen = np.union1d(self._prompt_ids, ids)
            values, penalty = adjusted[seen], np.float32(self._sampling.repetition_penalty)
            adjusted[seen] = np.where(values > 0, values / penalty, values * penalty)
        if ids.size:
            counts = np.fromiter(self._counts.values(), np.float32)
            adjusted[ids] -= self._sampling.presence_penalty + self._sampling.frequency_penalty * counts

    def _sample(self, adjusted: NDArray[np.float32]) -> int:
        """Draw by inverse cumulative distribution over the tokens that min_p, top_k and top_p leave, in the order of their ids."""
        sampling = self._sampling
        scaled = adjusted * np.float32(1 / sampling.temperature)
        scaled -= scaled.max()
        ids: NDArray[np.int64] | None = None
        if 0 < sampling.top_k < scaled.size:
            ids = np.sort(find_largest(scaled, sampling.top_k))
            scaled = scaled[ids]
        if sampling.min_p > 0.0:
            kept = np.flatnonzero(scaled >= np.log(np.float32(sampling.min_p)))
            ids, scaled = _select(ids, kept), scaled[kept]
        weights = np.exp(scaled)
        if sampling.top_p < 1.0:
            weights *= select_nucleus(weights, sampling.top_p)
        at = _find_position(weights, self._rng.random())
        return int(ids[at]) if ids is not None else at


_BLOCK = 256


def _find_position(weights: NDArray[np.float32], share: float) -> int:
    """Return the first position up to which more than `share` of the sum lies: by block sums, then inside one block."""
    starts = np.arange(0, weights.size, _BLOCK)
    blocks = np.cumsum(np.add.reduceat(weights, starts), dtype=np.float64)
    wanted = share * float(blocks[-1])
    block = min(int(np.searchsorted(blocks, wanted, side="right")), starts.size - 1)
    inside = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    at = int(np.searchsorted(inside, wanted - (blocks[block - 1] if block else 0.0), side="right"))
    at = block * _BLOCK + min(at, inside.size - 1)
    return at if weights[at] else int(weights.argmax())  # rounding led beyond the last weight


_SHIFTS = (17, 6)
"""A positive float's bits, read as an integer, order as the floats do: shifted, they are bins of 1.6 %, then of 0.0008 %."""
_MAX_SORTED = 2048


def select_nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.bool_]:
    """Return for each weight whether it is among the fewest largest ones that hold the share `top_p` of their sum.

    Weights are 0 or more. Linear in the vocabulary: a histogram finds the bin in which the share is reached, and only that bin is
    refined, by a finer histogram or, once it is small, by sorting.
    """
    wanted, reached = top_p * float(weights.sum(dtype=np.float64)), 0.0
    bits = weights.view(np.int32)
    inside = np.zeros(weights.size, bool)
    border: NDArray[np.intp] | None = None  # all
    for shift in _SHIFTS:
        if (weights.size if border is None else border.size) <= _MAX_SORTED:
            break
        bins = (bits if border is None else bits[border]) >> shift
        bins -= bins.min()
        shares = weights if border is None else weights[border]
        mass = reached + np.cumsum(_sum_bins(bins, shares)[::-1])
        edge = min(int(np.searchsorted(mass, wanted)), mass.size - 1)
        reached = float(mass[edge - 1]) if edge else reached
        edge_bin = mass.size - 1 - edge
        if border is None:
            inside, border = bins > edge_bin, np.flatnonzero(bins == edge_bin)
        else:
            inside[border[bins > edge_bin]] = True
            border = border[bins == edge_bin]
    shares = weights if border is None else weights[border]
    order = np.argsort(-shares, kind="stable")
    count = int(np.searchsorted(reached + np.cumsum(shares[order], dtype=np.float64), wanted)) + 1
    inside[order[:count] if border is None else border[order[:count]]] = True
    return inside


_scratch = threading.local()


def _sum_bins(bins: NDArray[np.int32], shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum of the shares in each bin.

    bincount casts to these two types, and allocating that memory on each call would take six times as long as counting.
    """
    if getattr(_scratch, "size", 0) < bins.size:
        _scratch.size, _scratch.bins, _scratch.shares = bins.size, np.empty(bins.size, np.intp), np.empty(bins.size)
    places, weights = _scratch.bins[: bins.size], _scratch.shares[: bins.size]
    places[:], weights[:] = bins, shares
    sums: NDArray[np.float64] = np.bincount(places, weights=weights)  # type: ignore[assignment]  # with weights they are floats
    return sums


_CHUNK = 64


def find_largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the positions of the `count` largest values, unordered; fewer where the rest are -inf.

    The `count`-th largest of the maxima of chunks is a lower bound of the values searched for, so that only few are compared.
    """
    if values.size < 4 * count * _CHUNK:
        return np.argpartition(values, -min(count, values.size))[-count:]
    whole = values.size // _CHUNK * _CHUNK
    peaks = values[:whole].reshape(-1, _CHUNK).max(axis=1)
    bound = np.partition(peaks, -count)[-count]
    at = np.flatnonzero(values >= bound if bound > -np.inf else values > bound)
    return at if at.size <= count else at[np.argpartition(values[at], -count)[-count:]]


def _select(ids: NDArray[np.int64] | None, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    return kept if ids is None else ids[kept]


def _compute_logprob(logits: NDArray[np.float32], token: int, count: int) -> TokenLogprob:
    """Return the log-softmax of the raw logits at `token` and at the `count` likeliest."""
    peak = logits.max()
    norm = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    top: tuple[tuple[int, float], ...] = ()
    if count:
        ids = find_largest(logits, count)
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        top = tuple((int(i), clamp_logprob(float(logits[i]) - norm)) for i in ids)
    return TokenLogprob(token, clamp_logprob(float(logits[token]) - norm), top)
