"""The thread that runs the SQLite store's calls, in order, with one commit for all that wait together.

The event loop never waits for the disk or for another process' lock. A call that is not answered in time raises; if it had not
begun by then it never does. Knows no call's meaning.
"""

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from serve_app.errors import StoreUnavailable
from serve_app.store.sqlite_calls import sweep
from serve_app.store.sqlite_schema import FILE, open_database

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Calls that may wait; more are refused as `busy`."""
_MAX_GROUP = 256
_SWEEP_EVERY_S = 1.0
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_Result = TypeVar("_Result")


class _Call:
    __slots__ = ("arguments", "future", "given_up", "loop", "run", "writes")

    def __init__(self, run: Callable[..., Any], arguments: tuple[Any, ...], writes: bool) -> None:
        self.run = run
        self.arguments = arguments
        self.writes = writes
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.given_up = False

    def give_up(self) -> None:
        """Answer the caller in the place of a thread that is too slow."""
        self.given_up = True
        if not self.future.done():
            self.future.set_exception(StoreUnavailable("the store is busy; try again", reason="busy", retry_after_s=1.0))


class SqliteThread:
    """One connection to the file in `folder`, used by one thread. Begins with the first call, and again after an error."""

    def __init__(self, folder: Path, *, timeout_s: float, max_bytes: int, clock: Callable[[], float]) -> None:
        """Answer within `timeout_s`; let the file grow to `max_bytes`."""
        self._folder = folder
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self._sweep_at = 0.0

    async def call(self, run: Callable[..., _Result], *arguments: Any, writes: bool = True) -> _Result:
        """Run `run(database, now, *arguments)` in a transaction and return its result once that is committed."""
        if self._closed:
            raise StoreUnavailable("the store is closed", reason="closed")
        if self._queue.qsize() >= MAX_WAITING:
            raise StoreUnavailable("the store is busy; try again", reason="busy", retry_after_s=1.0)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="store", daemon=True)
            self._thread.start()
        call = _Call(run, arguments, writes)
        timer = call.loop.call_later(self._timeout_s, call.give_up)
        self._queue.put(call)
        try:
            result: _Result = await call.future
            return result
        finally:
            timer.cancel()

    async def close(self) -> None:
        """End the thread after the calls that wait, in the time that a call has."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join, self._timeout_s)

    def _work(self) -> None:
        ended = False
        while not ended:
            group = [self._queue.get()]
            with suppress(Empty):
                while len(group) < _MAX_GROUP and group[-1] is not None:
                    group.append(self._queue.get_nowait())
            ended = group[-1] is None
            calls = [call for call in group if call is not None and not call.given_up]
            if calls:
                _answer(calls, self._run(calls))
        self._disconnect()

    def _run(self, calls: list[_Call]) -> list[Any] | StoreUnavailable:
        """Return the calls' results, or why all of them failed."""
        try:
            return self._transact(calls)
        except StoreUnavailable as error:
            self._disconnect()
            return error
        except (sqlite3.Error, OSError) as error:
            logger.warning("store: %s: %s", type(error).__name__, error)
            if not isinstance(error, sqlite3.Error) or error.sqlite_errorcode & 0xFF not in _BUSY:
                self._disconnect()  # a fresh connection is the surest way out of a half-failed transaction
            return _translate(error)
        except Exception:  # an error of ours must not end the thread: every later call would wait for nothing
            logger.exception("store: a call failed in an unforeseen way")
            self._disconnect()
            return StoreUnavailable("the store failed; its log says more", reason="broken")

    def _transact(self, calls: list[_Call]) -> list[Any]:
        database = self._connect()
        now = self._clock()
        writes = any(call.writes for call in calls)
        database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            # Their callers may have been answered while this waited for the lock.
            results = [None if call.given_up else call.run(database, now, *call.arguments) for call in calls]
            if writes and time.monotonic() >= self._sweep_at:
                more = sweep(database, now)
                self._sweep_at = time.monotonic() + (0.0 if more else _SWEEP_EVERY_S)
            database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if database.in_transaction:
                    database.execute("ROLLBACK")
            raise
        return results

    def _connect(self) -> sqlite3.Connection:
        """Return the connection, a new one where there is none or the file was replaced."""
        if self._database is not None and time.monotonic() >= self._sweep_at and self._inode != _inode(self._folder):
            logger.warning("store: %s was moved or removed; it is opened anew", FILE)
            self._disconnect()
        if self._database is None:
            # Half the time: a call that waits for one that fails still has the other half.
            self._database = open_database(self._folder, busy_s=self._timeout_s / 2, max_bytes=self._max_bytes)
            self._inode = _inode(self._folder)
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None


def _inode(folder: Path) -> int:
    try:
        return os.stat(folder / FILE).st_ino
    except FileNotFoundError:
        return 0


def _answer(calls: list[_Call], outcome: list[Any] | StoreUnavailable) -> None:
    """Hand results to the callers' event loop, all in one turn of it."""

    def resolve() -> None:
        for at, call in enumerate(calls):
            if call.future.done():
                continue
            if isinstance(outcome, StoreUnavailable):
                call.future.set_exception(
                    StoreUnavailable(outcome.message, reason=outcome.reason, retry_after_s=outcome.retry_after_s)
                )
            else:
                call.future.set_result(outcome[at])

    # A store belongs to one event loop; one that was closed in the meantime has nobody who waits.
    with suppress(RuntimeError):
        calls[0].loop.call_soon_threadsafe(resolve)


def _translate(error: sqlite3.Error | OSError) -> StoreUnavailable:
    code = error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) and hasattr(error, "sqlite_errorcode") else -1
    if code in _BUSY:
        return StoreUnavailable("the store is busy: other processes hold its file; try again", reason="busy", retry_after_s=1.0)
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable("the store is full; the operator must free disk space or raise store.max_bytes", reason="full")
    if code in _BROKEN:
        return StoreUnavailable(f"{FILE} is damaged; the operator must move it away or restore an export", reason="broken")
    return StoreUnavailable(
        "the store's folder cannot be used; the operator must make it writable and free disk space", reason="away"
    )
