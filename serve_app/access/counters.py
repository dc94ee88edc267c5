"""Sums within minutes that several ingresses share, counted in the store.

An ingress takes blocks from the store and hands out parts of them; what it does not use within a second it gives back. So what all
ingresses handed out is never more than the store's sum, and a refusal may come early by the blocks that the others hold. What was
used beyond its reservation is added a second later; what then exceeds the limit is a debt, and counts in the minutes that follow.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from serve_app.caller import Allowance
from serve_app.errors import BeyondQuota, QuotaExceeded
from serve_app.store.base import MAX_BATCH, Addition, Claim, Store, Taken, Tally

WINDOW_S = 60
_IDLE_S = 1.0
"""Seconds after which an unused block goes back."""
_REMEMBERED_S = 1.0
"""Seconds for which a refusal is repeated without asking the store."""


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


@dataclass(slots=True)
class _Debt:
    """What was used beyond a limit."""

    limit: int
    amount: int = 0
    due_at: float = 0.0
    """Monotonic seconds from which on it counts: the beginning of the next window."""


class Counters:
    """The counters of one store. Belongs to one event loop."""

    def __init__(self, store: Store, *, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take at most `share` of a limit at once, 0: what a request needs; `clock` gives monotonic seconds."""
        self._store = store
        self._share = share
        self._clock = clock
        self._blocks: dict[str, _Block] = {}
        self._debts: dict[str, _Debt] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._unsent: list[_Batch] = []
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
        self.require_room(wants)
        grants, lacking = self._take_held(wants)
        try:
            if lacking and self._share:
                async with self._filling:  # or many requests at once would take a block each
                    more, lacking = self._take_held(lacking)
                    grants += more
                    if lacking:
                        self.require_room(lacking)
                        grants += await self._claim(lacking)
            elif lacking:
                grants += await self._claim(lacking)
        except BaseException:
            for grant in grants:
                grant.settle(0)
            raise
        return grants

    def _take_held(self, wants: Sequence[Want]) -> tuple[list[Grant], list[Want]]:
        """Return grants out of the blocks held here, and the wants for which they do not suffice."""
        now = self._clock()
        grants, lacking = [], []
        for want in wants:
            block = self._blocks.get(want.key)
            if block is None or now >= block.ends_at or block.left < want.amount:
                lacking.append(want)
                continue
            block.left -= want.amount
            block.used_at = now
            grants.append(Grant(self, block, want))
        return grants, lacking

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
            Grant(self, self._put(want.key, size - want.amount, want.limit, tally), want)
            for want, size, tally in zip(wants, sizes, taken.tallies, strict=True)
        ]

    async def _take(self, wants: Sequence[Want], amounts: Sequence[int]) -> Taken:
        """Claim these amounts. Where the request is cancelled meanwhile, they are held here once the store's answer is there."""
        claims = [
            Claim(key=want.key, amount=amount, limit=want.limit, window_s=WINDOW_S)
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
        if block is None or block.start != tally.start:
            block = self._blocks[key] = _Block(tally.start, limit, now)
        block.limit, block.ends_at, block.sum, block.used_at = limit, now + tally.resets_in_s, tally.sum, now
        block.left += amount
        return block

    def put_back(self, want: Want, block: _Block, unused: int) -> None:
        """Take back what a request did not use; negative: what it used beyond its reservation."""
        now = self._clock()
        if now < block.ends_at:
            block.left += unused
            block.used_at = now
        elif unused < 0:
            self._owe(want.key, -unused, want.limit, due_at=now)

    def _owe(self, key: str, amount: int, limit: int, *, due_at: float) -> None:
        debt = self._debts.setdefault(key, _Debt(limit))
        debt.amount += amount
        debt.due_at = max(debt.due_at, due_at)

    def _note_refusal(self, wants: Sequence[Want], taken: Taken) -> QuotaExceeded:
        """Remember which counters are full, and return the error for the one that is full for the longest time."""
        now = self._clock()
        worst: tuple[float, Want] | None = None
        for want, tally in zip(wants, taken.tallies, strict=True):
            if tally.sum + want.amount <= want.limit:
                continue
            until = now + min(_REMEMBERED_S, tally.resets_in_s)
            self._refusals[want.key] = _Refusal(want.amount, tally.sum, until, now + tally.resets_in_s)
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
            block, refusal = self._blocks.get(want.key), self._refusals.get(want.key)
            total, resets_at = 0, now + WINDOW_S
            if block is not None and now < block.ends_at:
                total, resets_at = block.sum - block.left, block.ends_at
            if refusal is not None and now < refusal.until and refusal.sum >= total:
                total, resets_at = refusal.sum, refusal.resets_at
            remaining = min(want.limit, max(0, want.limit - total))
            shown.append(Allowance(kind=want.kind, limit=want.limit, remaining=remaining, resets_in_s=max(0.0, resets_at - now)))
        return shown

    async def settle(self) -> None:
        """Bring the store's sums up to date; raises `StoreUnavailable`, and the next call sends the rest."""
        now = self._clock()
        self._refusals = {key: refusal for key, refusal in self._refusals.items() if now < refusal.until}
        self._unsent = [batch for batch in self._unsent if now - batch.made_at < WINDOW_S]
        additions = self._collect(now)
        for at in range(0, len(additions), MAX_BATCH):
            part = additions[at : at + MAX_BATCH]
            limits = tuple(limit for _, limit in part)
            self._unsent.append(_Batch(f"settle/{uuid.uuid4().hex}", tuple(each for each, _ in part), limits, now))
        while self._unsent:
            batch = self._unsent[0]
            tallies = await self._store.add(batch.additions, batch=batch.name)
            if self._unsent and self._unsent[0] is batch:
                self._unsent.pop(0)
                self._carry(batch, tallies)

    def _carry(self, batch: _Batch, tallies: Sequence[Tally]) -> None:
        """Note as debts what this batch added beyond limits: the part of each addition that stands above its limit."""
        now = self._clock()
        for addition, limit, tally in zip(batch.additions, batch.limits, tallies, strict=True):
            if (beyond := min(addition.amount, tally.sum - limit)) > 0:
                self._owe(addition.key, beyond, limit, due_at=now + tally.resets_in_s)

    def _collect(self, now: float) -> list[tuple[Addition, int]]:
        """Return what the store must add, with the counters' limits, and forget blocks whose window is over."""
        due = [(key, debt) for key, debt in self._debts.items() if now >= debt.due_at]
        additions = [(Addition(key, debt.amount, WINDOW_S), debt.limit) for key, debt in due]
        for key, _ in due:
            del self._debts[key]
        for key, block in list(self._blocks.items()):
            if now >= block.ends_at:
                del self._blocks[key]
            elif block.left < 0 or (block.left > 0 and (not self._share or now - block.used_at >= _IDLE_S)):
                additions.append((Addition(key, -block.left, WINDOW_S, start=block.start), block.limit))
                block.sum -= block.left
                block.left = 0
        return additions

    def forget(self) -> None:
        """Begin anew."""
        self._blocks.clear()
        self._refusals.clear()
        self._debts.clear()
        self._unsent.clear()


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
