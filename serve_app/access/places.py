"""Places for requests under way, which several ingresses share: leases in the store.

A killed ingress' places become free by themselves after `LEASE_S`.
"""

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
        """Return one of `slots` places, None when all are taken; raises `StoreUnavailable`."""
        now = self._clock()
        free = self._free.get(key)
        while free:
            place = free.pop()
            if now - place.renewed_at < LEASE_S:
                break
        else:
            lease = await self._store.acquire(key, slots=slots, ttl_s=LEASE_S)
            if lease is None:
                return None
            place = Place(lease, now)
        self._held.setdefault(key, []).append(place)
        return place

    def give_back(self, place: Place) -> None:
        """Let the next request have the place; the next `tend` gives it back to the store."""
        held = self._held.get(place.lease.key, [])
        if place in held:
            held.remove(place)
            place.freed_at = self._clock()
            self._free.setdefault(place.lease.key, []).append(place)

    async def tend(self) -> None:
        """Renew the places that are held, and give back those that nobody needed; raises `StoreUnavailable`."""
        now = self._clock()
        for places in list(self._held.values()):
            for place in list(places):
                if now - place.renewed_at >= _RENEW_S:
                    place.renewed_at = now
                    await self._store.renew(place.lease, ttl_s=LEASE_S)
        for key, free in list(self._free.items()):
            over = [place for place in free if now - place.freed_at >= self._linger_s]
            self._free[key] = [place for place in free if place not in over]
            for place in over:
                await self._store.release(place.lease)
        self._held = {key: places for key, places in self._held.items() if places}
        self._free = {key: places for key, places in self._free.items() if places}

    async def close(self) -> None:
        """Give every free place back; raises `StoreUnavailable`."""
        self._linger_s = 0.0
        await self.tend()
