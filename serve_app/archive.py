"""Keeps answers for later requests of the same caller, in the store: bounded in number and bytes, and for a bounded time.

There are two rings of entries, one of heads and one of units (64 KiB each). A counter in the store gives out the next place of
each ring, so several ingresses share the rings without a lock. An answer has one head, whose place is part of its key, and its
bytes fill consecutive units. New answers overwrite the oldest ones, so both bounds always hold and nothing has to be swept. A head
has the answer's owner and its first unit. Each unit begins with the key of its answer, so a reader notices a unit that was
overwritten. Knows no dialect. See docs/adr/0018-kept-answers-lie-in-rings.md.
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
"""Bytes of an answer in one unit, without the key before them."""
ALIVE_S = 6.0
"""Seconds that work counts as alive after its mark."""
_ASKED_S = 60.0
"""Seconds that a request to end is kept; whoever makes the answer looks every second."""
_KEY = re.compile(r"[0-9a-f]{32}([0-9a-f]{6})")
_HEADS, _UNITS = "responses/heads", "responses/units"
_ENDED, _DELETED = b"end", b"deleted"
"""What is asked of whoever makes an answer."""
_LARGEST_SHARE = 4
"""One answer takes at most this fraction of all units: 1/4."""


class _Head(BaseModel):
    """The owner of an answer, and the units that hold its bytes."""

    model_config = ConfigDict(frozen=True)

    key: str
    owner: str
    first: int = Field(ge=0)
    """Number of its first unit, counted from the first answer ever kept."""
    units: int = Field(ge=0, le=1 << 20)
    """Number of its units."""


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
    """Implements `dialects.base.Archive`: the kept answers of one caller, who cannot see the answers of other callers."""

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
        """Note that the answer of this key is being made, for `ALIVE_S` seconds. Raises `StoreUnavailable`."""
        await self.archive.store.put(f"responses/alive/{key}", b"1", ttl_s=ALIVE_S)

    async def unmark(self, key: str) -> None:
        """Remove the marks of an answer that is no longer being made; raises `StoreUnavailable`."""
        await self.archive.store.delete(f"responses/alive/{key}")
        await self.archive.store.delete(_name_end(key))

    async def is_alive(self, key: str) -> bool:
        """Return whether the answer of this key is being made; raises `StoreUnavailable`."""
        return await self.archive.store.get(f"responses/alive/{key}") is not None

    async def ask_to_end(self, key: str, *, deleted: bool = False) -> None:
        """Ask the process that makes this answer to end it, and not to keep it if it is `deleted`; raises `StoreUnavailable`."""
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
    """Return the name of the place where the head of a key lies; None for a malformed key."""
    found = _KEY.fullmatch(key)
    return None if found is None else f"responses/head/{int(found[1], 16)}"


def _name_end(key: str) -> str:
    """Return where the wish lies that the work at an answer should end."""
    return f"responses/end/{key}"
