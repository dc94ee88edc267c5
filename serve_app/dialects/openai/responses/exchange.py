"""One request with its answer, and what is kept of both for later requests.

Kept is a JSON object: `response`, the answer as its client got it, and `input`, every item before it, those of earlier answers
included. So a conversation of any length is one reading.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.dialects.base import AnswerContext, Archive, JsonObject, dump
from serve_app.dialects.openai.responses.wire import Item, ResponsesBody
from serve_app.errors import InvalidRequest, NotFound, Unsupported
from serve_app.strict_json import load

MAX_KEPT_BYTES = 8 << 20
"""A longer conversation is answered and not kept."""
_MAX_LOOKUPS = 64
"""Kept answers that one request may refer to."""
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
        items = [] if isinstance(given, str) else [show_item(item) for item in given]
        value = dump({"response": response, "input": items})
        return len(value) <= MAX_KEPT_BYTES and await self.archive.write(self.key, value)


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
    kept: JsonObject = load(value)
    return kept


async def fill_in(items: str | list[Item], previous: str | None, archive: Archive) -> list[Item]:
    """Return the whole conversation: the previous answer's, then the given items, with references replaced by their items.

    Raises `InvalidRequest` naming what is not kept, `StoreUnavailable`.
    """
    known: dict[str, list[Item]] = {}
    earlier: list[Item] = []
    if previous is not None:
        kept = await find_kept(previous, archive)
        if kept is None:
            raise InvalidRequest(f"no response '{previous[:100]}' is kept{_explain(archive)}", param="previous_response_id")
        earlier = _list_items(kept)
    given = [Item(role="user", content=items)] if isinstance(items, str) else items
    whole = list(earlier)
    for at, item in enumerate(given):
        if item.type == "item_reference" or (item.type is None and item.role is None and item.id):
            whole.append(await _resolve(item.id or "", f"input.{at}", earlier, known, archive))
        else:
            whole.append(item)
    return whole


async def _resolve(item_id: str, place: str, earlier: Sequence[Item], known: dict[str, list[Item]], archive: Archive) -> Item:
    """Return the item with this id, from the conversation so far or from the kept answer that its id names."""
    found = _ITEM_ID.fullmatch(item_id)
    candidates = list(earlier)
    if found is not None and all(item.id != item_id for item in earlier):
        key = found[1]
        if key not in known:
            if len(known) == _MAX_LOOKUPS:
                raise Unsupported(f"{place}: at most {_MAX_LOOKUPS} kept responses may be referred to; send the items", param=place)
            kept = await _read(key, archive)
            known[key] = [] if kept is None else _list_items(kept)
        candidates = known[key]
    for item in candidates:
        if item.id == item_id:
            return item
    raise InvalidRequest(f"{place}: no item '{item_id[:100]}' is kept{_explain(archive)}; send the item itself", param=place)


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
