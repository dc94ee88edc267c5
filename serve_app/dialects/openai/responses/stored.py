"""The endpoints of kept responses: fetch, delete, cancel, list the input."""

import asyncio

from serve_app.dialects.base import JsonObject, Query, QueryContext
from serve_app.dialects.openai.responses.exchange import find_settled, refuse_unkept, require_kept
from serve_app.errors import InvalidRequest, NotFound, Unsupported

_DEFAULT_PAGE, _LONGEST_PAGE = 20, 100
_CANCEL_LOOKS, _CANCEL_LOOK_S = 20, 0.2
_LOST = {"code": "server_error", "message": "the server that made this response has ended; ask again"}
PATH = "/v1/responses/{response_id}"


async def _fetch(context: QueryContext, body: None) -> JsonObject:
    if context.query.get("stream", "").lower() == "true":
        raise Unsupported("stream: a kept response is not streamed again; fetch it without stream", param="stream")
    return await _read_response(context)


async def _read_response(context: QueryContext) -> JsonObject:
    """Return a kept response; one that nobody makes any more has failed."""
    response_id = context.parameters["response_id"]
    kept, is_being_made = await find_settled(response_id, context.archive)
    if kept is None:
        raise refuse_unkept(response_id, context.archive)
    response: JsonObject = kept["response"]
    is_lost = response["status"] == "in_progress" and not is_being_made
    return response | {"status": "failed", "error": _LOST} if is_lost else response


async def _cancel(context: QueryContext, body: None) -> JsonObject:
    response = await _read_response(context)
    if not response["background"]:
        raise InvalidRequest("only a response that was made with background: true can be cancelled", param="id")
    if response["status"] != "in_progress":
        return response
    await context.archive.ask_to_end(context.parameters["response_id"].removeprefix("resp_"))
    for _ in range(_CANCEL_LOOKS):
        await asyncio.sleep(_CANCEL_LOOK_S)  # whoever makes the response looks every second
        response = await _read_response(context)
        if response["status"] != "in_progress":
            break
    return response


async def _delete(context: QueryContext, body: None) -> JsonObject:
    response_id = context.parameters["response_id"]
    if (await _read_response(context))["status"] == "in_progress":
        await context.archive.ask_to_end(response_id.removeprefix("resp_"), deleted=True)
    if not await context.archive.delete(response_id.removeprefix("resp_")):
        raise NotFound(f"the response '{response_id}' is deleted already", param="id")
    return {"id": response_id, "object": "response", "deleted": True}


async def _list_input(context: QueryContext, body: None) -> JsonObject:
    kept = await require_kept(context.parameters["response_id"], context.archive)
    items: list[JsonObject] = kept["input"]
    order = context.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc", param="order")
    if order == "desc":
        items = items[::-1]
    after = context.query.get("after")
    if after is not None:
        at = next((at for at, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise InvalidRequest(f"after: the input has no item '{after[:100]}'", param="after")
        items = items[at + 1 :]
    limit = _read_limit(context.query.get("limit"))
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }


def _read_limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_PAGE
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= _LONGEST_PAGE:
        raise InvalidRequest(f"limit must be a whole number from 1 to {_LONGEST_PAGE}", param="limit")
    return int(text)


STORED = (
    Query(path=PATH, answer=_fetch, query=("include", "stream")),
    Query(path=PATH, method="DELETE", answer=_delete),
    Query(path=f"{PATH}/cancel", method="POST", answer=_cancel),
    Query(path=f"{PATH}/input_items", answer=_list_input, query=("after", "include", "limit", "order")),
)
