"""Applies the routing headers of a request: `x-task`, `x-engine`, `x-session-id`, `x-timeout-s`."""

from dataclasses import replace

from starlette.requests import Request

from serve_app.conversation import GenerateRequest
from serve_app.dialects.base import decode_session
from serve_app.encoding import EmbedRequest
from serve_app.errors import InvalidRequest
from serve_app.types import Task


def apply_header_hints(request: GenerateRequest, http_request: Request) -> GenerateRequest:
    """Return the request with the values of its headers, which win over the body and classification; raises `InvalidRequest`."""
    headers = http_request.headers
    return replace(
        request,
        task=_parse_task(headers.get("x-task")) or request.task,
        group=headers.get("x-engine") or request.group,
        session=decode_session(headers.get("x-session-id")) or request.session,
        timeout_s=_parse_timeout_s(headers.get("x-timeout-s")) or request.timeout_s,
    )


def apply_placing_hints(request: EmbedRequest, http_request: Request) -> EmbedRequest:
    """Return a request for embeddings with the group and the time limit of its headers; raises `InvalidRequest`."""
    headers = http_request.headers
    group, timeout_s = headers.get("x-engine"), _parse_timeout_s(headers.get("x-timeout-s"))
    return replace(request, group=group or request.group, timeout_s=timeout_s or request.timeout_s)


def _parse_task(given: str | None) -> Task | None:
    if given is not None and given not in set(Task):
        raise InvalidRequest(f"no task '{given[:100]}'; tasks are: {', '.join(Task)}", param="x-task")
    return Task(given) if given else None


def _parse_timeout_s(given: str | None) -> float | None:
    """Return the client's limit in seconds, None without one."""
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("x-timeout-s must be a number of seconds above 0", param="x-timeout-s")
    return seconds
