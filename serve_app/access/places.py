"""Places for requests under way, which several ingresses share: leases in the store.

A killed ingress' places become free by themselves after `LEASE_S`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.store.base import Lease, Store

LEASE_S = 15.0
"""Seconds for which a place is held without a sign of life."""
_RENEW_S = LEASE_S / 3


@dataclass(slots=True)
class Place:
    """One place, held by a request or kept for the next one."""

    lease: Lease
    slots: int
    """How many places there are."""
    renewed_at: float
    freed_at: float = 0.0


class Places:
    """The places of one store. Belongs to one event loop."""

    def __init__(self, store: Store, *, linger_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep a free place for `linger_s` seconds for the next request; `clock` gives monotonic seconds."""
        self._store = store
        self._linger_s = linger_s
        self._clock = clock
        self._held: dict[str, list[Place]] = {}
        self._free: dict[str, list[Place]] = {}

    async def take(self, key: str, slots: int) -> Place | None:
        """Return one of `slots` places, None when all are taken; raises `StoreUnavailable`.

        A place that comes while the request is cancelled is kept for the next one.
        """
        now = self._clock()
        free = self._free.get(key)
        while free:
            place = free.pop()
            if now - place.renewed_at < LEASE_S:
                break
        else:
            calling = asyncio.ensure_future(self._acquire(key, slots, now))
            try:
                found = await asyncio.shield(calling)
            except asyncio.CancelledError:
                calling.add_done_callback(self._keep)
                raise
            if found is None:
                return None
            place = found
        self._held.setdefault(key, []).append(place)
        return place

    async def _acquire(self, key: str, slots: int, now: float) -> Place | None:
        lease = await self._store.acquire(key, slots=slots, ttl_s=LEASE_S)
        return None if lease is None else Place(lease, slots, now)

    def _keep(self, done: asyncio.Future[Place | None]) -> None:
        if not done.cancelled() and done.exception() is None and (place := done.result()) is not None:
            self._set_free(place)

    def give_back(self, place: Place) -> None:
        """Let the next request have the place; the next `tend` gives it back to the store."""
        held = self._held.get(place.lease.key, [])
        if place in held:
            held.remove(place)
            self._set_free(place)

    def _set_free(self, place: Place) -> None:
        place.freed_at = self._clock()
        self._free.setdefault(place.lease.key, []).append(place)

    async def tend(self) -> None:
        """Renew the places that are held, and give back those that nobody needed; raises `StoreUnavailable`."""
        now = self._clock()
        for places in list(self._held.values()):
            for place in list(places):
                if now - place.renewed_at >= _RENEW_S:
                    await self._renew(place, now)
        for key, free in list(self._free.items()):
            over = [place for place in free if now - place.freed_at >= self._linger_s]
            self._free[key] = [place for place in free if place not in over]
            for place in over:
                await self._store.release(place.lease)
        self._held = {key: places for key, places in self._held.items() if places}
        self._free = {key: places for key, places in self._free.items() if places}

    async def _renew(self, place: Place, now: float) -> None:
        """Hold a place for longer. One that the store has lost meanwhile is taken anew, where one is free."""
        if await self._store.renew(place.lease, ttl_s=LEASE_S):
            place.renewed_at = now
            return
        lease = await self._store.acquire(place.lease.key, slots=place.slots, ttl_s=LEASE_S)
        if lease is not None:
            place.lease, place.renewed_at = lease, now

    async def close(self) -> None:
        """Give every free place back; raises `StoreUnavailable`."""
        self._linger_s = 0.0
        await self.tend()
