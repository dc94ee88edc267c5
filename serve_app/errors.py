"""Errors that a client may see, with their codes and HTTP status.

bytes --decode--> request --admit, choose--> route --attempt--> events --encode--> bytes
      RequestError        CapacityError          EngineError

    ServeError(message, *, retry_after_s=None)            code, status, retryable, futile_to_retry
    ├─ RequestError      the client must change the request; not retried, but for ConstraintLost
    │   InvalidRequest 400 · Unauthenticated 401 · Forbidden 403 · ModelNotFound 404 · NotFound 404 · MethodNotAllowed 405
    │   ContextOverflow 400 · TooLarge 413 · Unsupported 400 · ConstraintLost 400
    ├─ CapacityError     no engine can take the request now; try again
    │   Overloaded 503 · QuotaExceeded 429 (BeyondQuota) · NoEngine 503 · DeadlineExceeded 504
    ├─ Cancelled 503     an operator ended the request
    ├─ EngineError       an engine failed
    │   GenerationFailed 500 · IncompleteGeneration 502 · EngineDead 503
    ├─ StoreUnavailable 503 what outlives a process cannot be reached (serve_app/store); `reason` says why
    ├─ StorageFailed 507 data of a client could not be written
    └─ ModelUnusable 503 a model's files or settings are wrong; clients see it only where nothing can be served

Foreign exceptions become one of these inside each engine, in `deployments.remote` and in `store`, nowhere else. Render
`exc.message`, never `str(exc)`: through a Ray handle the latter is the remote traceback. Only `message` is positional, or Ray loses
the type.
"""

import re
from typing import ClassVar


class ServeError(Exception):
    """Base of all errors that a client may see. `message` says what is wrong and what to do."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    """Whether another engine may be tried."""
    futile_to_retry: ClassVar[bool] = False
    """Whether a retry would fail in the same way, so that a client's library should not retry in spite of the status."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, param: str | None = None) -> None:
        """Keep the message; `param` names the field at fault, `retry_after_s` is seconds to wait."""
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.param = param


class RequestError(ServeError):
    """The request itself is at fault."""

    code = "invalid_request"
    status = 400


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of range."""


class Unauthenticated(RequestError):
    """No valid credentials."""

    code = "unauthenticated"
    status = 401


class Forbidden(RequestError):
    """The client may not do this."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """No such endpoint."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """No such model; `model` is the requested name."""

    code = "model_not_found"

    def __init__(self, message: str, *, model: str = "", retry_after_s: float | None = None, param: str | None = None) -> None:
        """Keep the name beside the message."""
        super().__init__(message, retry_after_s=retry_after_s, param=param)
        self.model = model


class MethodNotAllowed(RequestError):
    """The endpoint exists for another HTTP method."""

    code = "method_not_allowed"
    status = 405


class ContextOverflow(RequestError):
    """The prompt does not fit into the context of any group."""

    code = "context_length_exceeded"


class TooLarge(RequestError):
    """The body exceeds the configured size."""

    code = "request_too_large"
    status = 413


class Unsupported(RequestError):
    """A feature that no configured group has."""

    code = "unsupported"


class ConstraintLost(InvalidRequest):
    """An engine could not keep the answer within the request's constraint. No failure of the engine; another one may succeed."""

    retryable = True


class CapacityError(ServeError):
    """The request is valid, but cannot be served now."""

    code = "overloaded"
    status = 503
    retryable = True


class Overloaded(CapacityError):
    """Every queue that could take the request is full."""


class QuotaExceeded(CapacityError):
    """The client sent more than it may."""

    code = "quota_exceeded"
    status = 429


class BeyondQuota(QuotaExceeded):
    """The request alone is larger than the client's whole quota."""

    futile_to_retry = True


class NoEngine(CapacityError):
    """No configured group is ready for this request."""

    code = "no_engine_ready"


class DeadlineExceeded(CapacityError):
    """The time given for the request is over."""

    code = "deadline_exceeded"
    status = 504
    retryable = False
    futile_to_retry = True  # a retry would wait as long again, and the engines would compute the answer again


class Cancelled(ServeError):
    """An operator ended the request."""

    code = "cancelled_by_operator"
    status = 503
    futile_to_retry = True


class EngineError(ServeError):
    """An engine failed while it had the request."""

    code = "engine_error"
    retryable = True


class GenerationFailed(EngineError):
    """The engine reported an error for this generation."""

    code = "generation_failed"


class IncompleteGeneration(EngineError):
    """The stream ended before the generation did."""

    code = "incomplete_generation"
    status = 502


class EngineDead(EngineError):
    """The engine or its replica died or hangs."""

    code = "engine_dead"
    status = 503


class ModelUnusable(ServeError):
    """A model's files or a group's settings cannot be used; `message` names the file or field, and the fix."""

    code = "model_unusable"
    status = 503
    futile_to_retry = True


class StorageFailed(ServeError):
    """Data that a client wants stored could not be written."""

    code = "storage_failed"
    status = 507
    futile_to_retry = True


class StoreUnavailable(ServeError):
    """The store of quotas, usage and responses did not carry out a call in time, or its answer was lost.

    `reason` is for the caller's decision and for metrics: `away` (nothing answers), `busy` (too slow, or locked by other
    processes), `full` (no room is left), `broken` (files that cannot be used, or of a newer version) or `closed`.
    """

    code = "store_unavailable"
    status = 503

    def __init__(self, message: str, *, reason: str = "away", retry_after_s: float | None = None, param: str | None = None) -> None:
        """Keep the reason beside the message."""
        super().__init__(message, retry_after_s=retry_after_s, param=param)
        self.reason = reason


_ABSOLUTE_PATH = re.compile(r"(?<![\w./])(?:file://)?(?:/[^\s/'\"`,;()]+)+/([^\s/'\"`,;()]*)")
_LONGEST_CAUSE_CHARS = 300


def explain(error: BaseException) -> str:
    """Return in a sentence why loading failed; paths are cut to their last part, so that clients may see it."""
    if isinstance(error, ServeError):
        return error.message
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not text:
        return f"{type(error).__name__}; the replica's log says more"
    shown = _ABSOLUTE_PATH.sub(r"\1", text)
    return f"{type(error).__name__}: {shown}"[:_LONGEST_CAUSE_CHARS]


def internal_error(request_id: str) -> ServeError:
    """Return the anonymous 500 for anything unforeseen; the log has the details under the same id."""
    return ServeError(f"Internal error. Quote request {request_id} when you report it.")
