"""Requests at a running cluster, bounded in count or time, and what became of each."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

_TIMEOUT = httpx.Timeout(150, connect=5)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, from the client's side."""

    began_s: float
    """On the monotonic clock."""
    took_s: float
    pause_s: float
    """The longest silence within it: until the first byte, or between two."""
    tokens: int
    fault: str
    """Empty for a whole answer."""
    headers: str = ""
    """Route of the answer."""


def ask(url: str, number: int, *, key: str, tokens: int = 48, group: str = "", streamed: bool | None = None) -> Outcome:
    """Send one chat request; every other one is streamed unless the caller decides. Never raises."""
    streamed = bool(number % 2) if streamed is None else streamed
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": f"Tell me {number + 2} things about the sea."}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"authorization": f"Bearer {key}"} | ({"x-engine": group} if group else {})
    reader = _Reader()
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=_TIMEOUT) as response:
            reader.headers = f"{response.headers.get('x-engine')} {response.headers.get('x-attempts')}"
            (reader.stream if streamed else reader.whole)(response)
    except httpx.HTTPError as error:
        reader.fault = f"{type(error).__name__}: {error}"
    return reader.outcome(tokens)


class _Reader:
    """Reads one answer and keeps what was seen of it, also when it breaks."""

    def __init__(self) -> None:
        self.began_s = self._last_s = time.monotonic()
        self._pause_s, self._tokens, self._reason = 0.0, 0, ""
        self.fault = self.headers = ""

    def stream(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            self.fault = f"{response.status_code} {response.read()[:300]!r}"
            return
        ended = False
        for line in response.iter_lines():
            self._heard()
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                self._take(json.loads(line[6:]))
        if not ended:
            self.fault = self.fault or "the stream was cut"

    def whole(self, response: httpx.Response) -> None:
        content = response.read()
        self._heard()
        if response.status_code != 200:
            self.fault = f"{response.status_code} {content[:300]!r}"
            return
        self._take(json.loads(content))

    def outcome(self, expected: int) -> Outcome:
        took_s = time.monotonic() - self.began_s
        if not self.fault and self._tokens != expected:
            self.fault = f"{self._tokens} of {expected} tokens, finish_reason {self._reason!r}"
        return Outcome(self.began_s, took_s, self._pause_s, self._tokens, self.fault, self.headers)

    def _heard(self) -> None:
        now = time.monotonic()
        self._pause_s, self._last_s = max(self._pause_s, now - self._last_s), now

    def _take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.fault = str(event["error"])
            return
        for choice in event.get("choices", ()):
            self._reason = choice.get("finish_reason") or self._reason
        self._tokens = (event.get("usage") or {}).get("completion_tokens", self._tokens)


class Load:
    """Clients that ask one request after the other from entering the block until its end, then finish what they began."""

    def __init__(self, clients: int, request: Callable[[int], Outcome], *, limit_s: float = 600) -> None:
        """Prepare so many clients; `request` gets a number of its own each time."""
        self._clients, self._request, self._limit_s = clients, request, limit_s
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running: list[Future[None]] = []
        self.outcomes: list[Outcome] = []
        """In the order in which they ended."""

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._limit_s
        self._running = [self._pool.submit(self._client, first, deadline) for first in range(self._clients)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._pool.shutdown()
        if error is None:
            for client in self._running:
                client.result()

    def _client(self, number: int, deadline: float) -> None:
        while not self._stopped.is_set() and time.monotonic() < deadline:
            self.outcomes.append(self._request(number))
            number += self._clients


def faults(outcomes: list[Outcome]) -> list[str]:
    """Return what went wrong, one line for each request that failed."""
    return [f"{outcome.fault} after {outcome.took_s:.1f} s ({outcome.headers})" for outcome in outcomes if outcome.fault]


def longest(outcomes: list[Outcome]) -> float:
    """Return the longest silence that a client met, in seconds; 0 without any client."""
    return max((outcome.pause_s for outcome in outcomes), default=0.0)
