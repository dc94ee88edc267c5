"""Sums within minutes that several ingresses share, counted in the store.

An ingress takes a block from the store and hands out parts of it; what it does not use within a second it gives back. So the sum in
the store is never below what was handed out, and a refusal may come early by the blocks that the other ingresses hold.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve_app.caller import Allowance
from serve_app.errors import BeyondQuota, QuotaExceeded
from serve_app.store.base import Addition, Claim, Store, Taken, Tally

WINDOW_S = 60
_IDLE_S = 1.0
"""Seconds after which an unused block goes back."""
_REMEMBERED_S = 1.0
"""Seconds for which a refusal is repeated without asking the store."""
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a request needs of one counter."""

    key: str
    amount: int
    limit: int
    kind: str
    """`requests` or `tokens`."""
    owner: str
    """Whose limit it is, for messages."""


@dataclass(slots=True)
class _Block:
    """What an ingress holds of one window."""

    start: int
    ends_at: float
    """Monotonic seconds of the window's end."""
    sum: int
    """The store's sum at the last call."""
    left: int
    """Not handed out yet; negative: handed out beyond what was reserved."""
    used_at: float


@dataclass(slots=True)
class Grant:
    """A part of a block that one request holds."""

    block: _Block
    want: Want

    def settle(self, actual: int, now: float) -> None:
        """Count `actual` instead of the wanted amount; without effect once the window is over."""
        self.block.left += self.want.amount - actual
        self.block.used_at = now
        self.want = Want(key=self.want.key, amount=actual, limit=self.want.limit, kind=self.want.kind, owner=self.want.owner)


@dataclass(frozen=True, slots=True)
class _Refusal:
    amount: int
    sum: int
    until: float
    resets_at: float


class Counters:
    """The counters of one store. Belongs to one event loop."""

    def __init__(self, store: Store, *, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take at most `share` of a limit at once, 0: what a request needs; `clock` gives monotonic seconds."""
        self._store = store
        self._share = share
        self._clock = clock
        self._blocks: dict[str, _Block] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._filling = asyncio.Lock()

    def require_room(self, wants: Sequence[Want]) -> None:
        """Raise `QuotaExceeded` for what was refused within the last second."""
        now = self._clock()
        for want in wants:
            refusal = self._refusals.get(want.key)
            if refusal is None:
                continue
            if now >= refusal.until:
                del self._refusals[want.key]
            elif want.amount >= refusal.amount:
                raise _refuse(want, refusal.resets_at - now)

    async def take(self, wants: Sequence[Want]) -> list[Grant]:
        """Return a grant for each want, or raise `QuotaExceeded` with none taken; raises `StoreUnavailable`."""
        for _ in range(_TRIES):
            if not self._find_lacking(wants):
                break
            self.require_room(wants)
            if self._share:
                async with self._filling:  # or many requests at once would take a block each
                    await self._fill(self._find_lacking(wants))
            else:
                await self._fill(self._find_lacking(wants))
                break
        now = self._clock()
        grants = []
        for want in wants:
            block = self._blocks[want.key]
            block.left -= want.amount
            block.used_at = now
            grants.append(Grant(block, want))
        return grants

    def _find_lacking(self, wants: Sequence[Want]) -> list[Want]:
        return [want for want in wants if not self._holds(want)]

    def _holds(self, want: Want) -> bool:
        block = self._blocks.get(want.key)
        return block is not None and self._clock() < block.ends_at and block.left >= want.amount

    async def _fill(self, wants: Sequence[Want]) -> None:
        """Take from the store what the wants lack, more of it where that is allowed."""
        if not wants:
            return
        needs = [max(1, want.amount - self._left(want)) for want in wants]
        sizes = [max(need, int(want.limit * self._share)) for need, want in zip(needs, wants, strict=True)]
        taken = await self._claim(wants, sizes)
        if not taken.granted and sizes != needs:
            sizes = needs
            taken = await self._claim(wants, sizes)
        if not taken.granted:
            raise self._note_refusal(wants, needs, taken)
        for want, size, tally in zip(wants, sizes, taken.tallies, strict=True):
            self._put(want.key, size, tally)

    def _left(self, want: Want) -> int:
        block = self._blocks.get(want.key)
        return block.left if block is not None and self._clock() < block.ends_at else 0

    async def _claim(self, wants: Sequence[Want], amounts: Sequence[int]) -> Taken:
        claims = [
            Claim(key=want.key, amount=amount, limit=want.limit, window_s=WINDOW_S)
            for want, amount in zip(wants, amounts, strict=True)
        ]
        return await self._store.take(claims)

    def _put(self, key: str, amount: int, tally: Tally) -> None:
        now = self._clock()
        block = self._blocks.get(key)
        if block is None or block.start != tally.start:
            block = self._blocks[key] = _Block(tally.start, 0.0, 0, 0, now)
        block.ends_at = now + tally.resets_in_s
        block.sum = tally.sum
        block.left += amount

    def _note_refusal(self, wants: Sequence[Want], needs: Sequence[int], taken: Taken) -> QuotaExceeded:
        """Remember which counters are full, and return the error for the one that is full for the longest time."""
        now = self._clock()
        worst: tuple[float, Want] | None = None
        for want, need, tally in zip(wants, needs, taken.tallies, strict=True):
            if tally.sum + need <= want.limit:
                continue
            wait = math.inf if want.amount > want.limit else tally.resets_in_s
            until = now + min(_REMEMBERED_S, tally.resets_in_s)
            self._refusals[want.key] = _Refusal(want.amount, tally.sum, until, now + wait)
            if worst is None or wait > worst[0]:
                worst = wait, want
        assert worst is not None
        return _refuse(worst[1], worst[0])

    def describe(self, wants: Sequence[Want]) -> list[Allowance]:
        """Return what is left of each counter, as far as this ingress knows."""
        now = self._clock()
        shown = []
        for want in wants:
            block, refusal = self._blocks.get(want.key), self._refusals.get(want.key)
            total, resets_at = 0, now + WINDOW_S
            if block is not None and now < block.ends_at:
                total, resets_at = block.sum - block.left, block.ends_at
            if refusal is not None and now < refusal.until and refusal.sum >= total:
                total, resets_at = refusal.sum, refusal.resets_at
            remaining = min(want.limit, max(0, want.limit - total))
            shown.append(Allowance(kind=want.kind, limit=want.limit, remaining=remaining, resets_in_s=max(0.0, resets_at - now)))
        return shown

    def collect(self) -> list[Addition]:
        """Return the additions that bring the store's sums up to date, and forget blocks whose window is over."""
        now = self._clock()
        additions = []
        for key, block in list(self._blocks.items()):
            if now >= block.ends_at:
                del self._blocks[key]
            elif block.left < 0 or (block.left > 0 and (not self._share or now - block.used_at >= _IDLE_S)):
                additions.append(Addition(key, -block.left, WINDOW_S, start=block.start))
                block.sum -= block.left
                block.left = 0
        return additions

    def forget(self) -> None:
        """Hold nothing any more, for a store whose answers were lost."""
        self._blocks.clear()
        self._refusals.clear()


def _refuse(want: Want, wait_s: float) -> QuotaExceeded:
    if want.amount > want.limit:
        return BeyondQuota(
            f"the request needs {want.amount} {want.kind}, and {want.owner} has {want.limit} {want.kind} per minute; "
            "shorten the prompt or the answer (max_tokens)"
        )
    return QuotaExceeded(
        f"the quota of {want.owner} is used up: {want.limit} {want.kind} per minute; try again in {math.ceil(wait_s)} s",
        retry_after_s=max(1.0, math.ceil(wait_s)),
    )
