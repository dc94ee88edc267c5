"""Keeps the requests that one ingress serves now, and the last ones that it served, without any of their text.

Knows records; no engine, dialect or other ingress. Times are seconds since 1970 where they are shown, else durations.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.errors import Cancelled
from serve_app.record import AttemptRecord, Candidate, RequestRecord
from serve_app.types import Task

KEPT = 1000
"""Requests that have ended and are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRequest:
    """A request that is being served."""

    id: str
    key: str
    model: str
    task: Task | None
    group: str | None
    reason: str | None
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated so far."""
    age_s: float
    has_begun: bool
    """Whether the client got any part of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """A request that has ended."""

    id: str
    at: float
    """When it ended, in seconds since 1970."""
    key: str
    model: str
    task: Task | None
    group: str | None
    reason: str | None
    attempts: int
    outcome: str
    """`ok`, `cancelled` or an error's code."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float
    first_token_s: float | None
    """Seconds from its arrival to the first part of its answer; None where there was none."""
    candidates: tuple[Candidate, ...]
    timeline: tuple[AttemptRecord, ...]
    """Its attempts, in the order in which they began."""

    @property
    def tokens_per_second(self) -> float | None:
        """Pace of the answer after its first token; None where nothing was generated after that."""
        if self.first_token_s is None or self.completion_tokens < 2 or self.seconds <= self.first_token_s:
            return None
        return (self.completion_tokens - 1) / (self.seconds - self.first_token_s)


class RequestBook:
    """The book of one ingress."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Begin empty; `clock` returns seconds since 1970."""
        self._clock = clock
        self._live: dict[int, tuple[RequestRecord, float]] = {}
        self._ended: deque[EndedRequest] = deque(maxlen=KEPT)
        self.count = 0
        """Requests that have ended since the start."""
        self.outcomes: Counter[tuple[Task | None, str | None, str]] = Counter()
        """Ended requests by task, group and outcome."""

    def begin(self, record: RequestRecord) -> None:
        """Note a request that begins."""
        self._live[id(record)] = record, self._clock()

    def end(self, record: RequestRecord) -> None:
        """Note its end; its record is complete."""
        if self._live.pop(id(record), None) is None:
            return
        used = record.consumed
        self.count += 1
        self.outcomes[(record.task, record.group, record.outcome)] += 1
        self._ended.append(
            EndedRequest(
                id=record.request_id,
                at=self._clock(),
                key=record.caller.name,
                model=record.served_model,
                task=record.task,
                group=record.group,
                reason=record.reason,
                attempts=record.attempts,
                outcome=record.outcome,
                prompt_tokens=used.prompt_tokens,
                cached_tokens=used.cached_tokens,
                completion_tokens=used.completion_tokens,
                seconds=record.seconds,
                first_token_s=record.first_token_s,
                candidates=record.candidates,
                timeline=tuple(record.timeline),
            )
        )

    def live(self) -> list[LiveRequest]:
        """Return the requests that are being served, the oldest first."""
        now = self._clock()
        return [
            LiveRequest(
                id=record.request_id,
                key=record.caller.name,
                model=record.served_model,
                task=record.task,
                group=record.group,
                reason=record.reason,
                attempts=record.attempts,
                prompt_tokens=record.prompt_tokens,
                completion_tokens=record.generated,
                age_s=max(0.0, now - began),
                has_begun=record.has_begun,
            )
            for record, began in self._live.values()
        ]

    def ended(self, since: int = 0) -> list[EndedRequest]:
        """Return the kept requests that ended after the first `since` ones, the oldest first."""
        wanted = min(self.count - since, len(self._ended))
        return list(self._ended)[len(self._ended) - wanted :] if wanted > 0 else []

    def find(self, request_id: str) -> EndedRequest | None:
        """Return the last request of this id that has ended and is kept."""
        return next((each for each in reversed(self._ended) if each.id == request_id), None)

    def cancel(self, request_id: str) -> bool:
        """End every request of this id with `Cancelled`; return whether there was one."""
        found = [record for record, _ in self._live.values() if record.request_id == request_id]
        for record in found:
            record.cancellation.cancel(Cancelled("an operator cancelled this request"))
        return bool(found)
