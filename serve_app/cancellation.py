"""Lets somebody else than the client end a request. Knows no request, task or event loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.errors import ServeError

Stop = Callable[[ServeError], None]
"""Ends what somebody waits for, with an error."""


class Cancellation:
    """The cancellation of one request. It lasts: whatever is begun later ends at once."""

    __slots__ = ("_error", "_stops")

    def __init__(self) -> None:
        """Not cancelled yet."""
        self._error: ServeError | None = None
        self._stops: list[Stop] = []

    def cancel(self, error: ServeError) -> None:
        """End everything that works on the request, with `error`; only the first call counts."""
        if self._error is not None:
            return
        self._error = error
        for stop in tuple(self._stops):
            stop(error)

    @contextmanager
    def stopping(self, stop: Stop) -> Iterator[None]:
        """Call `stop` if the request is cancelled during the block; raises the error where that has happened already."""
        if self._error is not None:
            raise self._error
        self._stops.append(stop)
        try:
            yield
        finally:
            self._stops.remove(stop)
