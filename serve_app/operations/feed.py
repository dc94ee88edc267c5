"""The stream of events for operations pages: built once, sent to every viewer. Without viewers it costs nothing.

Knows `Operations` and bytes; no HTTP.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from importlib.metadata import version

from serve_app.operations.base import JsonObject
from serve_app.operations.history import add_outcomes
from serve_app.operations.service import Operations
from serve_app.strict_json import dump

EVERY_S = 2.0
"""Seconds between two states."""
LONGEST_S = 300.0
"""Seconds after which a stream ends, so that it does not hold up an ingress that is being replaced; pages connect again."""
_HELD = 32
"""Events that a slow viewer may be behind; beyond that its stream ends."""
_FIRST_REQUESTS = 200
_Queue = asyncio.Queue[bytes | None]


class Feed:
    """The stream of one ingress."""

    def __init__(self, operations: Operations) -> None:
        """Show `operations`."""
        self._operations = operations
        self._viewers: set[_Queue] = set()
        self._task: asyncio.Task[None] | None = None
        self._has_begun = asyncio.Event()
        """Whether ended requests are counted, so that none is missed from now on."""
        self._seen: dict[str, int] = {}
        self._point_at = 0

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events: `hello` with everything so far, then what happens, for at most `LONGEST_S`."""
        queue: _Queue = asyncio.Queue(_HELD)
        until_s = time.monotonic() + LONGEST_S
        self._viewers.add(queue)
        try:
            if self._task is None or self._task.done():
                self._has_begun.clear()
                self._task = asyncio.create_task(self._run())
            await self._has_begun.wait()  # what ends while `hello` is built is then in an event, and perhaps in both
            yield encode_event("hello", await self._build_hello())
            while time.monotonic() < until_s and (event := await queue.get()) is not None:
                yield event
        finally:
            self._viewers.discard(queue)

    async def _build_hello(self) -> JsonObject:
        operations = self._operations
        return {
            "now": round(time.time(), 3),
            "version": version("phi-serve"),
            "every_s": EVERY_S,
            "history": await operations.show_history(),
            "requests": await operations.list_requests(_FIRST_REQUESTS),
            "state": await operations.show_state(),
        }

    async def _run(self) -> None:
        """Send what happens, while somebody watches; where that fails, end the streams, so that pages connect again."""
        try:
            self._note_counts(await self._operations.ask("pulse"))
            self._has_begun.set()
            while self._viewers:
                await self._send_news()
                await asyncio.sleep(EVERY_S)
        finally:
            self._has_begun.set()
            for queue in self._viewers:
                _end(queue)

    def _note_counts(self, pulses: list[JsonObject]) -> None:
        self._seen = {pulse["ingress"]["id"]: pulse["count"] for pulse in pulses}

    async def _send_news(self) -> None:
        pulses = await self._operations.ask("pulse", self._seen)
        self._note_counts(pulses)
        self._send("state", await self._operations.show_state(pulses))
        if ended := sorted((each for pulse in pulses for each in pulse["ended"]), key=lambda each: each["at"]):
            self._send("requests", {"finished": ended})
        own, *others = [pulse["point"] for pulse in pulses if pulse["point"]] or [None]
        if own is not None and own["at"] > self._point_at:
            self._point_at = own["at"]
            self._send("point", add_outcomes(own, [other for other in others if other["at"] == own["at"]]))

    def _send(self, name: str, content: JsonObject) -> None:
        event = encode_event(name, content)
        for queue in tuple(self._viewers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._viewers.discard(queue)
                _end(queue)


def _end(queue: _Queue) -> None:
    """End a viewer's stream, in place of the oldest event where there is no room."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(None)


def encode_event(name: str, content: JsonObject) -> bytes:
    """Return one server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), dump(content))
