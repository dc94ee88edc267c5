"""Limits of keys and models that hold across ingresses: requests and tokens per minute, requests under way.

Knows callers and the store; no key, no HTTP, no engine.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.access.counters import Counters, Grant, Want
from serve_app.access.places import Place, Places
from serve_app.caller import Allowance, Caller, Limits
from serve_app.errors import QuotaExceeded, StoreUnavailable
from serve_app.store.base import Store
from serve_app.store.memory import MemoryStore
from serve_app.store.names import encode_name

logger = logging.getLogger(__name__)

_UNBOUND = Limits()
_AWAY_S = 1.0
"""Seconds for which a store that failed is not asked again."""


@dataclass(slots=True)
class _Books:
    """Counters and places of one store."""

    counters: Counters
    places: Places


@dataclass(slots=True)
class Reservation:
    """What one request holds of its limits."""

    grants: list[Grant] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    _books: _Books | None = None
    _wake: Callable[[], None] = lambda: None

    def settle(self, tokens: int, *, counts: bool = True) -> None:
        """Count the used tokens instead of the reserved ones, and give the places back; `counts`: whether it was a request."""
        for grant in self.grants:
            grant.settle(tokens if grant.want.kind == "tokens" else int(counts))
        for place in self.places:
            assert self._books is not None
            self._books.places.give_back(place)
        if self.places:
            self.places = []
            self._wake()


class Limiter:
    """Reserves what a request needs of its limits. Belongs to one event loop.

    While the store is away, `fail_open` counts in this process only, so that each ingress allows the whole limit; otherwise limited
    requests are refused. Requests without limits never wait for the store.
    """

    def __init__(
        self,
        store: Store,
        *,
        models: Mapping[str, Limits],
        share: float,
        fail_open: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Bound `models` by these limits; `share`: see `Counters`; `clock` gives monotonic seconds."""
        self._store = store
        self._models = models
        self._fail_open = fail_open
        self._clock = clock
        linger_s = 1.0 if share else 0.0
        self._shared = _Books(Counters(store, share=share, clock=clock), Places(store, linger_s=linger_s, clock=clock))
        local = MemoryStore()
        self._local = _Books(Counters(local, share=0.0, clock=clock), Places(local, linger_s=0.0, clock=clock))
        self._ask_again_at = 0.0
        self._is_away = False
        self.wake = asyncio.Event()
        """Set when a place should go back to the store without delay."""
        self._wakes_at_once = not linger_s

    def require_room(self, caller: Caller, model: str) -> None:
        """Raise `QuotaExceeded` where a request was refused a moment ago for a quota that is still used up; asks no store."""
        if not self._bounds(caller, model):
            return
        if wants := self._list_wants(caller, model, 1, 0):
            books = self._local if self._is_away else self._shared
            books.counters.require_room(wants)

    async def reserve(self, caller: Caller, model: str, *, prompt_tokens: int, answer_tokens: int) -> Reservation:
        """Reserve a request whose answer has about `answer_tokens` tokens.

        Raises `QuotaExceeded`, and `StoreUnavailable` with `fail_closed`.
        """
        if not self._bounds(caller, model):
            return Reservation()
        wants = self._list_wants(caller, model, prompt_tokens, answer_tokens)
        slots = self._list_slots(caller, model)
        if self._is_away and self._clock() < self._ask_again_at:
            return await self._reserve_locally(wants, slots)
        self._ask_again_at = self._clock() + _AWAY_S  # of the requests in this second, one finds out whether the store is back
        try:
            if self._is_away:
                await self._catch_up()
            reservation = await self._reserve(self._shared, wants, slots)
        except StoreUnavailable as error:
            self.note_failure(error)
            return await self._reserve_locally(wants, slots)
        except QuotaExceeded:
            self._note_success()
            raise
        self._note_success()
        return reservation

    async def require_quota(self, caller: Caller, model: str, *, prompt_tokens: int, answer_tokens: int) -> None:
        """Raise what `reserve` would raise now, and reserve nothing."""
        reservation = await self.reserve(caller, model, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
        reservation.settle(0, counts=False)

    async def _catch_up(self) -> None:
        """Find out whether the store is back, and tell it first what it missed."""
        try:
            async with asyncio.timeout(_AWAY_S):
                await self._store.check()
                await self._shared.counters.settle()
        except TimeoutError:
            raise StoreUnavailable("the store is slow", reason="busy", retry_after_s=_AWAY_S) from None

    async def _reserve_locally(self, wants: list[Want], slots: Mapping[str, tuple[int, str]]) -> Reservation:
        if not self._fail_open:
            raise StoreUnavailable(
                "the store of quotas is away, and the server is configured to refuse limited requests then (fail_closed)",
                retry_after_s=_AWAY_S,
            )
        return await self._reserve(self._local, wants, slots)

    async def _reserve(self, books: _Books, wants: list[Want], slots: Mapping[str, tuple[int, str]]) -> Reservation:
        """Return what a request needs, or raise with nothing held."""
        held = Reservation(_books=books, _wake=self._request_wake)

        async def take_place(key: str, count: int, owner: str) -> None:
            place = await books.places.take(key, count)
            if place is None:
                raise QuotaExceeded(f"{owner} may have {count} requests under way at once; wait until one ends", retry_after_s=1.0)
            held.places.append(place)

        async def take_counters() -> None:
            held.grants = await books.counters.take(wants)

        calls = [take_place(key, count, owner) for key, (count, owner) in slots.items()]
        if wants:
            calls.append(take_counters())
        try:
            await self._wait_for(calls)
        except BaseException:
            held.settle(0, counts=False)
            raise
        return held

    async def _wait_for(self, calls: list[Coroutine[Any, Any, None]]) -> None:
        """Run the calls, and raise the first one's error: together where each asks the store, else one after the other."""
        if self._wakes_at_once and len(calls) > 1:
            errors = [each for each in await asyncio.gather(*calls, return_exceptions=True) if each is not None]
            if errors:
                raise errors[0]
            return
        try:
            for call in calls:
                await call
        finally:
            for call in calls:
                call.close()  # those that an error left out

    def show_allowances(self, caller: Caller, model: str) -> tuple[Allowance, ...]:
        """Return what is left of a caller's limits, requests and tokens; of several for the same kind, the least."""
        if not self._bounds(caller, model):
            return ()
        wants = self._list_wants(caller, model, 1, 0)
        least: dict[str, Allowance] = {}
        for shown in (self._local if self._is_away else self._shared).counters.describe(wants) if wants else ():
            if shown.kind not in least or shown.remaining < least[shown.kind].remaining:
                least[shown.kind] = shown
        return tuple(least.values())

    def _request_wake(self) -> None:
        if self._wakes_at_once:
            self.wake.set()

    def note_failure(self, error: StoreUnavailable) -> None:
        """Count in this process from now on, until the store answers again."""
        self._ask_again_at = self._clock() + _AWAY_S
        if not self._is_away:
            self._is_away = True
            logger.error("limits: the store is %s; %s", error.reason, "counting locally" if self._fail_open else "refusing")

    def _note_success(self) -> None:
        if self._is_away:
            self._is_away = False
            self._local.counters.forget()
            logger.warning("limits: the store answers again")

    async def tend_places(self) -> None:
        """Renew places and give back free ones; call it every second, and when `wake` is set."""
        self.wake.clear()
        await self._local.places.tend()
        try:
            await self._shared.places.tend()
        except StoreUnavailable as error:
            self.note_failure(error)

    async def settle(self) -> None:
        """Bring the store's sums up to date; call it every second."""
        await self._local.counters.settle()
        try:
            await self._shared.counters.settle()
        except StoreUnavailable as error:
            self.note_failure(error)

    async def close(self) -> None:
        """Give back what is held and not used; where the store is away, it becomes free by itself."""
        try:
            await self._shared.counters.settle(idle_s=0.0)
            await self._shared.places.close()
        except StoreUnavailable as error:
            self.note_failure(error)

    def _list_wants(self, caller: Caller, model: str, prompt_tokens: int, answer_tokens: int) -> list[Want]:
        """Return what a request needs. An answer that may become longer than the quota still fits into an unused one."""
        wants: list[Want] = []
        for kind, name, owner, limits in self._find_limits(caller, model):
            path = f"{kind}/{encode_name(name)}"
            if (limit := limits.requests_per_minute) is not None:
                wants.append(Want(counter=f"requests/{path}", amount=1, limit=limit, kind="requests", owner=owner))
            if (limit := limits.tokens_per_minute) is not None:
                tokens = max(prompt_tokens, min(prompt_tokens + answer_tokens, limit))
                wants.append(Want(counter=f"tokens/{path}", amount=tokens, limit=limit, kind="tokens", owner=owner))
        return wants

    def _list_slots(self, caller: Caller, model: str) -> dict[str, tuple[int, str]]:
        return {
            f"places/{kind}/{encode_name(name)}": (limits.concurrent, owner)
            for kind, name, owner, limits in self._find_limits(caller, model)
            if limits.concurrent is not None
        }

    def _find_limits(self, caller: Caller, model: str) -> list[tuple[str, str, str, Limits]]:
        found = [("key", caller.name, f"the key '{caller.name}'", caller.limits)]
        if model in self._models:
            found.append(("model", model, f"the model '{model}'", self._models[model]))
        return found

    def _bounds(self, caller: Caller, model: str) -> bool:
        """Return whether there is any limit to a caller's use of a model."""
        return caller.limits != _UNBOUND or model in self._models
