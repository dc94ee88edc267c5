"""Sums within minutes that several ingresses share, counted in the store.

An ingress takes blocks from the store and hands out parts of them; what it does not use within a second it gives back. So what all
ingresses handed out is never more than the store's sum, and a refusal may come early by the blocks that the others hold.

A request may use more than it reserved. The excess is added to the store within a second. The part of it that stands above the
limit is added to the next window too, and so on, so that later requests make up for it.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from serve_app.caller import Allowance
from serve_app.errors import BeyondQuota, QuotaExceeded, StoreUnavailable
from serve_app.store.base import MAX_BATCH, Addition, Claim, Store, Taken, Tally

WINDOW_S = 60
_IDLE_S = 1.0
"""Seconds after which an unused block goes back."""
_LONGEST_DEBT_S = 3600
"""How far ahead excess is carried; what is beyond is forgiven."""
_REMEMBERED_S = 1.0
"""Seconds for which a refusal is repeated without asking the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a request needs of one counter."""

    counter: str
    """The counter's key in the store."""
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
    limit: int
    ends_at: float
    """Monotonic seconds of the window's end."""
    sum: int = 0
    """The store's sum at the last call."""
    left: int = 0
    """Not handed out; negative: used beyond what was reserved."""
    used_at: float = 0.0


@dataclass(slots=True)
class Grant:
    """A part of a block that one request holds."""

    _counters: "Counters"
    _block: _Block
    want: Want

    def settle(self, actual: int) -> None:
        """Count `actual` instead of the amount.

        What was not used is free again, unless its window is over. What was used beyond it counts in any case.
        """
        unused = self.want.amount - actual
        self.want = replace(self.want, amount=actual)
        self._counters.put_back(self.want, self._block, unused)


@dataclass(frozen=True, slots=True)
class _Refusal:
    amount: int
    sum: int
    until: float
    resets_at: float


@dataclass(frozen=True, slots=True)
class _Batch:
    """Additions on their way to the store, under a name that makes them count once."""

    name: str
    additions: tuple[Addition, ...]
    limits: tuple[int, ...]
    """Of their counters."""
    made_at: float


class Counters:
    """The counters of one store. Belongs to one event loop."""

    def __init__(self, store: Store, *, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take at most `share` of a limit at once, 0: what a request needs; `clock` gives monotonic seconds."""
        self._store = store
        self._share = share
        self._clock = clock
        self._blocks: dict[str, _Block] = {}
        self._late: dict[str, tuple[int, int]] = {}
        """Excess that a window which is over does not count any more: (amount, limit) by counter."""
        self._refusals: dict[str, _Refusal] = {}
        self._unsent: list[_Batch] = []
        self._filling = asyncio.Lock()
        self._failure: StoreUnavailable | None = None
        """How the last block could not be taken; None: it could."""

    def require_room(self, wants: Sequence[Want]) -> None:
        """Raise `QuotaExceeded` for what was refused within the last second."""
        now = self._clock()
        for want in wants:
            refusal = self._refusals.get(want.counter)
            if refusal is None or self._holds(want, now):
                continue
            if now >= refusal.until:
                del self._refusals[want.counter]
            elif want.amount >= refusal.amount:
                raise _refuse(want, refusal.resets_at - now)

    async def take(self, wants: Sequence[Want]) -> list[Grant]:
        """Return a grant for each want, or raise `QuotaExceeded` with none taken; raises `StoreUnavailable`."""
        grants, lacking = self._take_held(wants)
        try:
            self.require_room(lacking)
            if lacking and self._share:
                grants += await self._fill(lacking)
            elif lacking:
                grants += await self._claim(lacking)
        except BaseException:
            for grant in grants:
                grant.settle(0)
            raise
        return grants

    async def _fill(self, wants: Sequence[Want]) -> list[Grant]:
        """Take blocks one request after the other, or many requests at once would take a block each."""
        before = self._failure
        async with self._filling:
            if self._failure is not None and self._failure is not before:  # while this one waited: the next call would fail as well
                raise self._failure
            grants, lacking = self._take_held(wants)
            try:
                if lacking:
                    self.require_room(lacking)
                    grants += await self._claim(lacking)
                self._failure = None
            except BaseException as error:
                if isinstance(error, StoreUnavailable):
                    self._failure = error
                for grant in grants:
                    grant.settle(0)
                raise
            return grants

    def _take_held(self, wants: Sequence[Want]) -> tuple[list[Grant], list[Want]]:
        """Return grants out of the blocks held here, and the wants for which they do not suffice."""
        now = self._clock()
        grants, lacking = [], []
        for want in wants:
            if not self._holds(want, now):
                lacking.append(want)
                continue
            block = self._blocks[want.counter]
            block.left -= want.amount
            block.used_at = now
            grants.append(Grant(self, block, want))
        return grants, lacking

    def _holds(self, want: Want, now: float) -> bool:
        """Return whether a block held here suffices."""
        block = self._blocks.get(want.counter)
        return block is not None and now < block.ends_at and block.left >= want.amount

    async def _claim(self, wants: Sequence[Want]) -> list[Grant]:
        """Take the wants from the store, more of each where that is allowed; what is more stays here."""
        needs = [want.amount for want in wants]
        sizes = [max(need, int(want.limit * self._share)) for need, want in zip(needs, wants, strict=True)]
        taken = await self._take(wants, sizes)
        if not taken.granted and sizes != needs:
            sizes = needs
            taken = await self._take(wants, sizes)
        if not taken.granted:
            raise self._note_refusal(wants, taken)
        return [
            Grant(self, self._put(want.counter, size - want.amount, want.limit, tally), want)
            for want, size, tally in zip(wants, sizes, taken.tallies, strict=True)
        ]

    async def _take(self, wants: Sequence[Want], amounts: Sequence[int]) -> Taken:
        """Claim these amounts. Where the request is cancelled meanwhile, they are held here once the store's answer is there."""
        claims = [
            Claim(key=want.counter, amount=amount, limit=want.limit, window_s=WINDOW_S)
            for want, amount in zip(wants, amounts, strict=True)
        ]
        calling = asyncio.ensure_future(self._store.take(claims))
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            calling.add_done_callback(lambda done: self._keep(claims, done))
            raise

    def _keep(self, claims: Sequence[Claim], done: asyncio.Future[Taken]) -> None:
        if done.cancelled() or done.exception() is not None or not done.result().granted:
            return
        for claim, tally in zip(claims, done.result().tallies, strict=True):
            self._put(claim.key, claim.amount, claim.limit, tally)

    def _put(self, key: str, amount: int, limit: int, tally: Tally) -> _Block:
        """Hold `amount` in the block of the tally's window, and return the block."""
        now = self._clock()
        block = self._blocks.get(key)
        if block is not None and tally.start < block.start:  # a late answer: that window is over
            return _Block(tally.start, limit, now)
        if block is None or block.start != tally.start:
            self._drop(key)
            block = self._blocks[key] = _Block(tally.start, limit, now)
        block.limit, block.ends_at, block.sum, block.used_at = limit, now + tally.resets_in_s, tally.sum, now
        block.left += amount
        return block

    def put_back(self, want: Want, block: _Block, unused: int) -> None:
        """Take back what a request did not use; negative: what it used beyond its reservation."""
        now = self._clock()
        if now < block.ends_at and self._blocks.get(want.counter) is block:
            block.left += unused
            block.used_at = now
        elif unused < 0:
            self._note_late(want.counter, -unused, want.limit)

    def _note_late(self, counter: str, amount: int, limit: int) -> None:
        self._late[counter] = (self._late.get(counter, (0, 0))[0] + amount, limit)

    def _drop(self, counter: str) -> None:
        """Forget a block whose window is over, but not what was used beyond it."""
        block = self._blocks.pop(counter, None)
        if block is not None and block.left < 0:
            self._note_late(counter, -block.left, block.limit)

    def _note_refusal(self, wants: Sequence[Want], taken: Taken) -> QuotaExceeded:
        """Remember which counters are full, and return the error for the one that is full for the longest time."""
        now = self._clock()
        worst: tuple[float, Want] | None = None
        for want, tally in zip(wants, taken.tallies, strict=True):
            if tally.sum + want.amount <= want.limit:
                continue
            until = now + min(_REMEMBERED_S, tally.resets_in_s)
            self._refusals[want.counter] = _Refusal(want.amount, tally.sum, until, now + tally.resets_in_s)
            wait = math.inf if want.amount > want.limit else tally.resets_in_s
            if worst is None or wait > worst[0]:
                worst = wait, want
        assert worst is not None
        return _refuse(worst[1], worst[0])

    def describe(self, wants: Sequence[Want]) -> list[Allowance]:
        """Return what is left of each counter, as far as this ingress knows."""
        now = self._clock()
        shown = []
        for want in wants:
            block, refusal = self._blocks.get(want.counter), self._refusals.get(want.counter)
            total, resets_at = 0, now + WINDOW_S
            if block is not None and now < block.ends_at:
                total, resets_at = block.sum - block.left, block.ends_at
            if refusal is not None and now < refusal.until and refusal.sum >= total:
                total, resets_at = refusal.sum, refusal.resets_at
            remaining = min(want.limit, max(0, want.limit - total))
            shown.append(Allowance(kind=want.kind, limit=want.limit, remaining=remaining, resets_in_s=max(0.0, resets_at - now)))
        return shown

    async def settle(self, *, idle_s: float = _IDLE_S) -> None:
        """Bring the store's sums up to date, and give back blocks that were not used for `idle_s` seconds.

        Raises `StoreUnavailable`; the next call sends the rest.
        """
        now = self._clock()
        self._refusals = {key: refusal for key, refusal in self._refusals.items() if now < refusal.until}
        self._give_up_old_batches(now)
        self._send_later(self._collect(now, idle_s))
        while self._unsent:
            batch = self._unsent[0]
            tallies = await self._store.add(batch.additions, batch=batch.name)
            if self._unsent and self._unsent[0] is batch:
                self._unsent.pop(0)
                self._carry(batch, tallies)

    def _send_later(self, additions: Sequence[tuple[Addition, int]]) -> None:
        for at in range(0, len(additions), MAX_BATCH):
            part = additions[at : at + MAX_BATCH]
            limits = tuple(limit for _, limit in part)
            self._unsent.append(_Batch(f"settle/{uuid.uuid4().hex}", tuple(each for each, _ in part), limits, self._clock()))

    def _give_up_old_batches(self, now: float) -> None:
        """Forget batches for windows that are over; what was used beyond reservations counts in the present window instead."""
        old = [batch for batch in self._unsent if now - batch.made_at >= WINDOW_S]
        self._unsent = [batch for batch in self._unsent if batch not in old]
        for batch in old:
            for addition, limit in zip(batch.additions, batch.limits, strict=True):
                if addition.amount > 0:
                    self._note_late(addition.key, addition.amount, limit)

    def _carry(self, batch: _Batch, tallies: Sequence[Tally]) -> None:
        """Add to the next window what this batch changed above the limit.

        Excess counts there too, and what another request gives back afterwards takes that back.
        """
        carried = []
        for addition, limit, tally in zip(batch.additions, batch.limits, tallies, strict=True):
            if tally.resets_in_s == 0:  # the window was over, and counted nothing
                if addition.amount > 0:
                    self._note_late(addition.key, addition.amount, limit)
                continue
            change = max(0, tally.sum - limit) - max(0, tally.sum - addition.amount - limit)
            if change and tally.resets_in_s < _LONGEST_DEBT_S:
                carried.append((Addition(addition.key, change, WINDOW_S, start=tally.start + WINDOW_S), limit))
        self._send_later(carried)

    def _collect(self, now: float, idle_s: float) -> list[tuple[Addition, int]]:
        """Return what the store must add, with the counters' limits, and forget blocks whose window is over."""
        for key, block in list(self._blocks.items()):
            if now >= block.ends_at:
                self._drop(key)
        additions = [(Addition(key, amount, WINDOW_S), limit) for key, (amount, limit) in self._late.items()]
        self._late.clear()
        for key, block in self._blocks.items():
            if block.left < 0 or (block.left > 0 and (not self._share or now - block.used_at >= idle_s)):
                additions.append((Addition(key, -block.left, WINDOW_S, start=block.start), block.limit))
                block.sum -= block.left
                block.left = 0
        return additions

    def forget(self) -> None:
        """Drop all state."""
        self._blocks.clear()
        self._refusals.clear()
        self._late.clear()
        self._unsent.clear()


def _refuse(want: Want, wait_s: float) -> QuotaExceeded:
    if want.amount > want.limit:
        return BeyondQuota(
            f"the request needs {want.amount} {want.kind}, and {want.owner} has {want.limit} {want.kind} per minute; "
            "shorten the prompt"
        )
    return QuotaExceeded(
        f"the quota of {want.owner} is used up: {want.limit} {want.kind} per minute; try again in {math.ceil(wait_s)} s",
        retry_after_s=max(1.0, math.ceil(wait_s)),
    )
