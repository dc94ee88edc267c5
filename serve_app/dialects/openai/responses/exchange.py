"""One request with its answer, and what is kept of both for later requests.

Kept is a JSON object: `response`, the answer as its client got it, and `input`, every item before it, those of earlier answers
included. So one look-up reads a conversation of any length. Knows no HTTP and no store.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.dialects.base import AnswerContext, Archive, JsonObject, dump
from serve_app.dialects.openai.responses.wire import Item, ResponsesBody
from serve_app.errors import InvalidRequest, NotFound, Unsupported
from serve_app.strict_json import load

MAX_KEPT_BYTES = 8 << 20
"""A longer conversation is answered and not kept."""
_MANY_ITEMS, _MANY_BYTES = 200, 256 << 10
"""Above these, conversations are written and read on threads: the event loop has other streams to serve."""
_MAX_LOOKUPS = 64
"""Kept answers that the references of one request may lie in."""
_MAX_READ_BYTES = 32 << 20
"""Bytes of those answers."""
_RESPONSE_ID = re.compile(r"resp_([0-9a-f]{38})")
_ITEM_ID = re.compile(r"[a-z]{1,8}_([0-9a-f]{38})_i?\d{1,9}")
_PREFIXES = {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, and where its answer is kept."""

    context: AnswerContext[ResponsesBody]
    key: str = ""
    """The answer's key in the archive; empty: it is not kept."""
    archive: Archive | None = None

    @property
    def name(self) -> str:
        """What the ids of the answer and of its items have in common."""
        return self.key or self.context.request.request_id

    async def keep(self, response: JsonObject) -> bool:
        """Keep the final response object and its input; return whether that succeeded."""
        if not self.key or self.archive is None:
            return False
        given = self.context.body.input
        items = [] if isinstance(given, str) else given
        value = await asyncio.to_thread(_pack, response, items) if len(items) > _MANY_ITEMS else _pack(response, items)
        return len(value) <= MAX_KEPT_BYTES and await self.archive.write(self.key, value)


def _pack(response: JsonObject, items: Sequence[Item]) -> bytes:
    return dump({"response": response, "input": [show_item(item) for item in items]})


async def find_kept(response_id: str, archive: Archive) -> JsonObject | None:
    """Return what is kept of an answer; None where there is none of this caller. Raises `StoreUnavailable`."""
    found = _RESPONSE_ID.fullmatch(response_id)
    return None if found is None else await _read(found[1], archive)


async def require_kept(response_id: str, archive: Archive) -> JsonObject:
    """Return what is kept of an answer; raises `NotFound`, `StoreUnavailable`."""
    kept = await find_kept(response_id, archive)
    if kept is None:
        raise NotFound(f"no response '{response_id[:100]}' is kept{_explain(archive)}", param="id")
    return kept


def _explain(archive: Archive) -> str:
    if not archive.keeps:
        return ": the operator turned that off (responses.keep)"
    return " for this key; it was not stored, was deleted, or is too old"


async def _read(key: str, archive: Archive) -> JsonObject | None:
    value = await archive.read(key)
    if value is None:
        return None
    return await asyncio.to_thread(_parse, value) if len(value) > _MANY_BYTES else _parse(value)


def _parse(value: bytes) -> JsonObject:
    kept: JsonObject = load(value)
    return kept


async def fill_in(items: str | list[Item], previous: str | None, archive: Archive) -> list[Item]:
    """Return the whole conversation: the previous answer's, then the given items, with references replaced by their items.

    Raises `InvalidRequest` naming what is not kept, `Unsupported` for too many or too large references, `StoreUnavailable`.
    """
    earlier: list[Item] = []
    if previous is not None:
        kept = await find_kept(previous, archive)
        if kept is None:
            raise InvalidRequest(f"no response '{previous[:100]}' is kept{_explain(archive)}", param="previous_response_id")
        earlier = await asyncio.to_thread(_list_items, kept) if len(kept["input"]) > _MANY_ITEMS else _list_items(kept)
    given = [Item(role="user", content=items)] if isinstance(items, str) else items
    references = _References(earlier, archive)
    whole = list(earlier)
    for at, item in enumerate(given):
        if item.type == "item_reference" or (item.type is None and item.role is None and item.id):
            whole.append(await references.resolve(item.id or "", f"input.{at}"))
        else:
            whole.append(item)
    return whole


class _References:
    """Resolves the references of one request, within bounds: a short reference may stand for a large item."""

    def __init__(self, earlier: Sequence[Item], archive: Archive) -> None:
        """Look for items in `earlier`, the conversation so far, first."""
        self._archive = archive
        self._earlier = _index(earlier)
        self._answers: dict[str, dict[str, Item]] = {}
        """The items of the kept answers that were read, by the answers' keys and the items' ids."""
        self._read_bytes = 0
        self._item_bytes = 0

    async def resolve(self, item_id: str, place: str) -> Item:
        """Return the item with this id, from the conversation so far or from the kept answer that its id names.

        `place` is the reference's place in the body. Raises `InvalidRequest` where nothing is kept, `Unsupported` beyond the
        bounds, `StoreUnavailable`.
        """
        found = _ITEM_ID.fullmatch(item_id)
        known = self._earlier if found is None or item_id in self._earlier else await self._read_answer(found[1], place)
        item = known.get(item_id)
        if item is None:
            raise InvalidRequest(
                f"{place}: no item '{item_id[:100]}' is kept{_explain(self._archive)}; send the item itself", param=place
            )
        self._item_bytes += len(item.model_dump_json())
        if self._item_bytes > MAX_KEPT_BYTES:
            raise Unsupported(f"{place}: the items referred to have more than {MAX_KEPT_BYTES} bytes; refer to fewer", param=place)
        return item

    async def _read_answer(self, key: str, place: str) -> dict[str, Item]:
        if key not in self._answers:
            if len(self._answers) == _MAX_LOOKUPS:
                raise Unsupported(f"{place}: at most {_MAX_LOOKUPS} kept responses may be referred to; send the items", param=place)
            value = await self._archive.read(key)
            self._read_bytes += len(value or b"")
            if self._read_bytes > _MAX_READ_BYTES:
                raise Unsupported(
                    f"{place}: the kept responses referred to have more than {_MAX_READ_BYTES} bytes; send the items", param=place
                )
            self._answers[key] = {} if value is None else _index(_list_items(_parse(value)))
        return self._answers[key]


def _index(items: Sequence[Item]) -> dict[str, Item]:
    """Return the items by their ids; of several with one id the first."""
    return {item.id: item for item in reversed(items) if item.id}


def _list_items(kept: JsonObject) -> list[Item]:
    return [Item.model_validate(item) for item in (*kept["input"], *kept["response"]["output"])]


def name_items(items: Sequence[Item], name: str) -> list[Item]:
    """Return the items, each with an id."""
    return [
        item if item.id else item.model_copy(update={"id": f"{_PREFIXES.get(item.type or '', 'msg')}_{name}_i{at}"})
        for at, item in enumerate(items)
    ]


def show_item(item: Item) -> JsonObject:
    """Return an input item as the API lists it."""
    shown = item.model_dump(exclude_none=True)
    kind = shown.setdefault("type", "message")
    if kind == "message":
        shown.setdefault("status", "completed")
        if isinstance(item.content, str):
            shown["content"] = [_show_text(item.content, item.role)]
    return shown


def _show_text(text: str, role: str | None) -> JsonObject:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}
