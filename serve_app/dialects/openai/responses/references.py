"""Puts what a request refers to in its place: the items of the previous answer, and single kept items."""

import asyncio
import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from serve_app.dialects.base import Archive, JsonObject, dump
from serve_app.dialects.openai.responses.exchange import MANY_ITEMS, MAX_KEPT_BYTES, explain_absence, find_settled, read_kept
from serve_app.dialects.openai.responses.wire import Item
from serve_app.errors import InvalidRequest, Unsupported

_MAX_LOOKUPS = 64
"""Kept answers that one request may refer to."""
_ITEM_ID = re.compile(r"[a-z]{1,8}_([0-9a-f]{38})_i?\d{1,9}")


async def fill_in(items: str | list[Item], previous: str | None, archive: Archive) -> list[Item]:
    """Return the whole conversation: the previous answer's, then the given items, with references replaced by their items.

    Raises `InvalidRequest` naming what is not kept, `StoreUnavailable`.
    """
    earlier = [] if previous is None else await _list_earlier(previous, archive)
    given = [Item(role="user", content=items)] if isinstance(items, str) else items
    references = {at: item.id or "" for at, item in enumerate(given) if _is_reference(item)}
    _require_different(references)
    known = {item.id: item for item in reversed(earlier) if item.id}  # of several items with one id the first counts
    known |= await _look_up(references, known, archive)
    for at, item_id in references.items():
        if item_id not in known:
            absence = f"no item '{item_id[:100]}' is kept{explain_absence(archive)}; send the item itself"
            raise InvalidRequest(f"input.{at}: {absence}", param=f"input.{at}")
    return [*earlier, *(known[references[at]] if at in references else item for at, item in enumerate(given))]


def _is_reference(item: Item) -> bool:
    return item.type == "item_reference" or (item.type is None and item.role is None and bool(item.id))


def _require_different(references: Mapping[int, str]) -> None:
    """Raise `InvalidRequest` for an item that is referred to twice: a small body could become a prompt of any length."""
    seen: set[str] = set()
    for at, item_id in references.items():
        if item_id in seen:
            raise InvalidRequest(
                f"input.{at}: the item '{item_id[:100]}' stands in input already; refer to it once", param=f"input.{at}"
            )
        seen.add(item_id)


async def _list_earlier(previous: str, archive: Archive) -> list[Item]:
    kept, is_being_made = await find_settled(previous, archive)
    if is_being_made:
        fault = f"the response '{previous[:100]}' is still being made; continue it when its status is completed"
        raise InvalidRequest(fault, param="previous_response_id")
    shown = [] if kept is None else [*kept["input"], *kept["response"]["output"]]
    read = await asyncio.to_thread(_read_items, shown) if len(shown) > MANY_ITEMS else _read_items(shown)
    items = None if kept is None else read
    if items is None:
        raise InvalidRequest(f"no response '{previous[:100]}' is kept{explain_absence(archive)}", param="previous_response_id")
    return items


async def _look_up(references: Mapping[int, str], known: Mapping[str, Item], archive: Archive) -> dict[str, Item]:
    """Return the items that references name, from the kept answers that the ids name; what is not kept is left out."""
    wanted: dict[str, dict[str, int]] = {}
    for at, item_id in references.items():
        named = _ITEM_ID.fullmatch(item_id)
        if named is None or item_id in known:
            continue
        if named[1] not in wanted and len(wanted) == _MAX_LOOKUPS:
            fault = f"input.{at}: at most {_MAX_LOOKUPS} kept responses may be referred to; send the items"
            raise Unsupported(fault, param=f"input.{at}")
        wanted.setdefault(named[1], {})[item_id] = at
    found: dict[str, Item] = {}
    left_bytes = MAX_KEPT_BYTES
    for key, places in wanted.items():
        kept = await read_kept(key, archive)
        for shown in () if kept is None else (*kept["input"], *kept["response"]["output"]):
            item_id = shown["id"]
            items = _read_items([shown]) if item_id in places and item_id not in found else None
            if items is None:
                continue
            left_bytes -= len(dump(shown))
            if left_bytes < 0:
                place = f"input.{places[item_id]}"
                raise InvalidRequest(
                    f"{place}: the items referred to have over {MAX_KEPT_BYTES} bytes; refer to fewer", param=place
                )
            found[item_id] = items[0]
    return found


def _read_items(shown: Sequence[JsonObject]) -> list[Item] | None:
    """Return kept items; None where another version of this server kept them in a form that cannot be read."""
    try:
        return [Item.model_validate(item) for item in shown]
    except ValidationError:
        return None
