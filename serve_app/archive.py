"""Keeps answers for later requests of the same caller, in the store: bounded in number and bytes, and for a bounded time.

Two rings, each turned by a counter of the store, so that several ingresses share them without a lock. A kept answer has one place
in the ring of heads, which its id names, and its bytes lie in consecutive places of the ring of units. What is kept later takes the
oldest places, so the bounds hold whatever happens, and nothing has to be swept. A head says whose the answer is and where its
bytes lie; bytes begin with their answer's id, so that a place which was taken since is noticed. Knows no dialect.
"""

import asyncio
import hmac
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.errors import StoreUnavailable
from serve_app.store.base import Addition, Store
from serve_app.store_config import ResponsesSettings

logger = logging.getLogger(__name__)

UNIT_BYTES = 64 << 10
ALIVE_S = 6.0
"""How long work counts as alive after its mark."""
_ASKED_S = 60.0
_KEY = re.compile(r"[0-9a-f]{32}([0-9a-f]{6})")
_HEADS, _UNITS = "responses/heads", "responses/units"
_ENDED, _DELETED = b"end", b"deleted"
"""What is asked of whoever makes an answer."""
_LARGEST_SHARE = 4
"""An answer may take one in so many of all units."""


class _Head(BaseModel):
    """Whose an answer is, and where its bytes lie."""

    model_config = ConfigDict(frozen=True)

    key: str
    owner: str
    first: int = Field(ge=0)
    """Its first unit."""
    units: int = Field(ge=0, le=1 << 20)


@dataclass(frozen=True, slots=True)
class Archive:
    """The kept answers of every caller."""

    store: Store
    settings: ResponsesSettings
    make_token: Callable[[], str] = lambda: secrets.token_hex(16)
    """Returns 128 random bits in hexadecimal digits."""

    def belonging_to(self, owner: str) -> "OwnArchive":
        """Return the view of one caller."""
        return OwnArchive(self, owner)

    @property
    def units(self) -> int:
        """Places in the ring of units."""
        return max(_LARGEST_SHARE, self.settings.max_bytes // UNIT_BYTES)


@dataclass(frozen=True, slots=True)
class OwnArchive:
    """See `dialects.base.Archive`: the kept answers of one caller; those of others do not exist for it."""

    archive: Archive
    owner: str

    @property
    def keeps(self) -> bool:
        """Whether answers are kept here at all."""
        return self.archive.settings.keep

    async def reserve(self) -> str:
        """Return the key of a new answer; empty where none can be kept now."""
        if not self.keeps:
            return ""
        try:
            (tally,) = await self.archive.store.add([Addition(_HEADS, 1)])
        except StoreUnavailable as error:
            logger.warning("an answer is not kept: %s", error.message)
            return ""
        return f"{self.archive.make_token()}{tally.sum % self.archive.settings.max_count:06x}"

    async def write(self, key: str, value: bytes) -> bool:
        """Keep an answer under a reserved key; return False where that is impossible now."""
        place = _find_place(key)
        mark = key.encode()
        parts = [mark + value[at : at + UNIT_BYTES] for at in range(0, len(value), UNIT_BYTES)]
        if place is None or not self.keeps or len(parts) > self.archive.units // _LARGEST_SHARE:
            return False
        store, ttl_s = self.archive.store, self.archive.settings.days * 86400.0
        try:
            (tally,) = await store.add([Addition(_UNITS, len(parts))])
            head = _Head(key=key, owner=self.owner, first=tally.sum - len(parts), units=len(parts))
            for at, part in enumerate(parts):
                await store.put(self._name_unit(head, at), part, ttl_s=ttl_s)
            await store.put(place, head.model_dump_json().encode(), ttl_s=ttl_s)
        except StoreUnavailable as error:
            logger.warning("an answer is not kept: %s", error.message)
            return False
        return True

    async def replace(self, key: str, value: bytes) -> bool:
        """Keep an answer in place of the one under its key; return False where that was deleted, or where it is impossible now."""
        try:
            head = await self._find(key)
            if head is None or not await self.write(key, value):
                return False
            await self._delete_units(head)
            if await self.archive.store.get(_name_end(key)) != _DELETED:
                return True
            await self.delete(key)  # it was deleted while it was written
        except StoreUnavailable as error:
            logger.warning("an answer is not kept: %s", error.message)
        return False

    async def read(self, key: str) -> bytes | None:
        """Return a kept answer of this caller, None where there is none; raises `StoreUnavailable`."""
        head = await self._find(key)
        if head is None:
            return None
        parts = await asyncio.gather(*(self.archive.store.get(self._name_unit(head, at)) for at in range(head.units)))
        mark = key.encode()
        if any(part is None or not part.startswith(mark) for part in parts):
            return None  # newer answers took its places
        return b"".join(part[len(mark) :] for part in parts if part is not None)

    async def delete(self, key: str) -> bool:
        """Delete a kept answer of this caller; return False where there is none. Raises `StoreUnavailable`."""
        head = await self._find(key)
        if head is None:
            return False
        there = await self.read(key) is not None
        await self._delete_units(head)
        place = _find_place(key)
        assert place is not None
        return await self.archive.store.delete(place) and there

    async def _delete_units(self, head: _Head) -> None:
        """Delete the bytes of an answer, but for places that newer answers took."""
        for at in range(head.units):
            name = self._name_unit(head, at)
            part = await self.archive.store.get(name)
            if part is not None and part.startswith(head.key.encode()):
                await self.archive.store.delete(name)

    async def mark_alive(self, key: str) -> None:
        """Say that the answer of this key is being made; holds for `ALIVE_S`. Raises `StoreUnavailable`."""
        await self.archive.store.put(f"responses/alive/{key}", b"1", ttl_s=ALIVE_S)

    async def unmark(self, key: str) -> None:
        """Say that nobody makes the answer of this key any more; raises `StoreUnavailable`."""
        await self.archive.store.delete(f"responses/alive/{key}")
        await self.archive.store.delete(_name_end(key))

    async def is_alive(self, key: str) -> bool:
        """Return whether somebody makes the answer of this key; raises `StoreUnavailable`."""
        return await self.archive.store.get(f"responses/alive/{key}") is not None

    async def ask_to_end(self, key: str, *, deleted: bool = False) -> None:
        """Ask whoever makes the answer of this key to end, and not to keep it if it is `deleted`; raises `StoreUnavailable`."""
        await self.archive.store.put(_name_end(key), _DELETED if deleted else _ENDED, ttl_s=_ASKED_S)

    async def is_asked_to_end(self, key: str) -> bool:
        """Return whether the work at this key should end; raises `StoreUnavailable`."""
        return await self.archive.store.get(_name_end(key)) is not None

    async def _find(self, key: str) -> _Head | None:
        place = _find_place(key)
        found = None if place is None or not self.keeps else await self.archive.store.get(place)
        if found is None:
            return None
        try:
            head = _Head.model_validate_json(found)
        except ValidationError:
            return None
        owns = hmac.compare_digest(head.key.encode(), key.encode()) and head.owner == self.owner
        return head if owns else None

    def _name_unit(self, head: _Head, at: int) -> str:
        return f"responses/unit/{(head.first + at) % self.archive.units}"


def _find_place(key: str) -> str | None:
    """Return where the head of a key lies; None for what is no key."""
    found = _KEY.fullmatch(key)
    return None if found is None else f"responses/head/{int(found[1], 16)}"


def _name_end(key: str) -> str:
    """Return where the wish lies that the work at an answer should end."""
    return f"responses/end/{key}"
