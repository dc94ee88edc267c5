"""The request's headers that are about its routing: `x-task`, `x-engine`, `x-session-id`, `x-timeout-s`."""

from dataclasses import replace

from starlette.requests import Request

from serve_app.conversation import GenerateRequest
from serve_app.errors import InvalidRequest
from serve_app.types import Task

_MAX_SESSION_CHARS = 200


def apply_header_hints(request: GenerateRequest, http_request: Request) -> GenerateRequest:
    """Return the request with what its headers say; they win over the body and over classification. Raises `InvalidRequest`."""
    headers = http_request.headers
    return replace(
        request,
        task=_task(headers.get("x-task")) or request.task,
        group=headers.get("x-engine") or request.group,
        session=headers.get("x-session-id", "")[:_MAX_SESSION_CHARS] or request.session,
        timeout_s=_timeout_s(headers.get("x-timeout-s")) or request.timeout_s,
    )


def _task(given: str | None) -> Task | None:
    if given is not None and given not in set(Task):
        raise InvalidRequest(f"no task '{given[:100]}'; tasks are: {', '.join(Task)}", param="x-task")
    return Task(given) if given else None


def _timeout_s(given: str | None) -> float | None:
    """Return the seconds that the client gives its request, None where it says nothing."""
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("x-timeout-s must be a number of seconds above 0", param="x-timeout-s")
    return seconds
