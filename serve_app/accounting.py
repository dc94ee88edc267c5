"""Accounts for a request while it is served: writes its span, log line and counts, all from its record."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span

from serve_app import tracing
from serve_app.access.usage import UsageBook
from serve_app.errors import ServeError
from serve_app.metrics import IngressMetrics
from serve_app.record import RequestRecord
from serve_app.request_book import RequestBook

REQUEST_LOG = logging.getLogger("serve_app.requests")
"""One line of JSON per request, without its text."""
_LINES = json.JSONEncoder(allow_nan=False)


@contextmanager
def account(
    span: Span, record: RequestRecord, metrics: IngressMetrics, usage: UsageBook, book: RequestBook
) -> Iterator[Callable[[], None]]:
    """Account for the request of `record`, whose `span` has begun.

    Does so when the block ends, or once the yielded function is called: before the last bytes of a whole answer.
    `record.outcome` becomes an error's code.
    """
    began = record.arrived_s = time.monotonic()
    book.begin(record)

    def finish() -> None:
        if record.is_accounted:
            return
        record.is_accounted = True
        record.seconds = time.monotonic() - began
        metrics.count_request(record)
        usage.note(record)
        book.end(record)
        REQUEST_LOG.info("%s", _LINES.encode(record.log_fields()))
        tracing.end(span, record)

    try:
        yield finish
    except ServeError as error:
        record.outcome = error.code
        raise
    except Exception:  # only its outcome is noted; the HTTP layer answers it
        record.outcome = "internal_error"
        raise
    finally:
        finish()
