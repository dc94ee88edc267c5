"""One request with its answer, and what is kept of both for later requests.

Kept is a JSON object: `response`, the answer as its client got it, and `input`, every item before it, those of earlier answers
included. So one look-up reads a conversation of any length. Knows no HTTP and no store.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.dialects.base import AnswerContext, Archive, JsonObject, dump
from serve_app.dialects.openai.responses.wire import Item, ResponsesBody
from serve_app.errors import NotFound
from serve_app.strict_json import load

logger = logging.getLogger(__name__)

MAX_KEPT_BYTES = 8 << 20
"""A longer conversation is answered and not kept."""
MANY_ITEMS, _MANY_BYTES = 200, 256 << 10
"""Above these, conversations are written and read on threads: the event loop has other streams to serve."""
_RESPONSE_ID = re.compile(r"resp_([0-9a-f]{38})")
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

    async def keep(self, response: JsonObject, *, again: bool = False) -> bool:
        """Keep the response object and its input; return whether that succeeded. `again`: in place of an earlier one."""
        if not self.key or self.archive is None:
            return False
        given = self.context.body.input
        items = [] if isinstance(given, str) else given
        value = await asyncio.to_thread(_pack, response, items) if len(items) > MANY_ITEMS else _pack(response, items)
        if len(value) > MAX_KEPT_BYTES:
            return False
        return await (self.archive.replace if again else self.archive.write)(self.key, value)


def _pack(response: JsonObject, items: Sequence[Item]) -> bytes:
    return dump({"response": response, "input": [show_item(item) for item in items]})


async def find_kept(response_id: str, archive: Archive) -> JsonObject | None:
    """Return what is kept of an answer; None where there is none of this caller. Raises `StoreUnavailable`."""
    found = _RESPONSE_ID.fullmatch(response_id)
    return None if found is None else await read_kept(found[1], archive)


async def find_settled(response_id: str, archive: Archive) -> tuple[JsonObject | None, bool]:
    """Return what `find_kept` does, and whether somebody still makes the answer."""
    kept = await find_kept(response_id, archive)
    if kept is None or kept["response"]["status"] != "in_progress":
        return kept, False
    if await archive.is_alive(response_id.removeprefix("resp_")):
        return kept, True
    return await find_kept(response_id, archive), False  # it may have ended between the two readings


async def require_kept(response_id: str, archive: Archive) -> JsonObject:
    """Return what is kept of an answer; raises `NotFound`, `StoreUnavailable`."""
    kept = await find_kept(response_id, archive)
    if kept is None:
        raise refuse_unkept(response_id, archive)
    return kept


def refuse_unkept(response_id: str, archive: Archive) -> NotFound:
    """Return the error of an answer that is not kept."""
    return NotFound(f"no response '{response_id[:100]}' is kept{explain_absence(archive)}", param="id")


def explain_absence(archive: Archive) -> str:
    """Return why something may not be kept, as the end of a sentence."""
    if not archive.keeps:
        return ": the operator turned that off (responses.keep)"
    return " for this key; it was not stored, was deleted, or is too old"


async def read_kept(key: str, archive: Archive) -> JsonObject | None:
    """Return what is kept under a key, None where there is nothing that can be read; raises `StoreUnavailable`."""
    value = await archive.read(key)
    if value is None:
        return None
    kept = await asyncio.to_thread(_parse, value) if len(value) > _MANY_BYTES else _parse(value)
    if kept is None:
        logger.warning("the kept answer %s cannot be read, so it counts as not kept", key)
    return kept


def _parse(value: bytes) -> JsonObject | None:
    """Return what is kept; None where it has another form than this version of the server writes."""
    try:
        kept: JsonObject = load(value)
        response = kept["response"]
        is_whole = isinstance(response["status"], str) and isinstance(response["background"], bool)
        is_whole = is_whole and all(isinstance(item["id"], str) for item in (*kept["input"], *response["output"]))
    except (ValueError, LookupError, TypeError):
        return None
    return kept if is_whole else None


def name_items(items: Sequence[Item], name: str) -> list[Item]:
    """Return the items, each with an id of its own: clients continue a list of items after an id."""
    named: list[Item] = []
    taken: set[str] = set()
    for at, item in enumerate(items):
        if not item.id or item.id in taken:
            item = item.model_copy(update={"id": f"{_PREFIXES.get(item.type or '', 'msg')}_{name}_i{at}"})
        taken.add(item.id or "")
        named.append(item)
    return named


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
