"""The record of one request: its route and its outcome. Headers, log, metrics and traces are written from it."""

from dataclasses import dataclass, field
from typing import TypeAlias

from serve_app.caller import ANONYMOUS, Allowance, Caller
from serve_app.cancellation import Cancellation
from serve_app.conversation import ChoiceEnd, total_usage
from serve_app.types import Task, Usage

LogValue: TypeAlias = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The routing policy's estimates for one group and one request."""

    group: str
    obstacle: str
    """Why it cannot take the request; empty when it can."""
    ahead: int
    """Requests in the group, which the request would have ahead of it."""
    wait_s: float | None
    """Estimated seconds until the request would begin; None while the group's rate is unknown."""
    finish_s: float | None
    """Estimated seconds until the request would be done; None while the group's rate is unknown."""


@dataclass(slots=True, kw_only=True)
class AttemptRecord:
    """One attempt of a group at a request, or at the rest of one."""

    group: str
    at_s: float
    """Seconds from the request's arrival to the attempt's start."""
    seconds: float = 0.0
    """How long it took."""
    replica: str = ""
    """The replica that had it; empty where none is known."""
    outcome: str = "running"
    """`ok`, `running`, `cancelled` or an error's code."""
    tokens: int = 0
    """Tokens generated in it."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """Filled in while the request is served. Routing is complete with the first event of the answer, the rest with its end."""

    request_id: str
    caller: Caller = ANONYMOUS
    """Whose request it is."""
    model: str = ""
    """The name that the answer carries."""
    served_model: str = ""
    """The own name of the model that answers; `model` may be an alias or a variant of it."""
    task: Task | None = None
    group: str | None = None
    """The engine group that answers."""
    reason: str | None = None
    """Why this group was chosen; see `Policy.choose`. `failover` when an earlier candidate failed, `auto-fallback` when the
    model that the task chose for `auto` could not answer."""
    falls_back: bool = False
    """Whether another model answers than the one that the task chose."""
    attempts: int = 0
    earlier_attempts: int = 0
    """Attempts at the models that another one stands in for."""
    candidates: tuple[Candidate, ...] = ()
    """Every group, with the policy's estimates."""
    show_candidates: bool = False
    """Whether the response shows `candidates`."""
    dropped_messages: int = 0
    """Turns dropped from the prompt to fit the context that the client asked for."""
    invalid_calls: tuple[str, ...] = ()
    """Tools called with arguments that violate their schema."""
    invalid_answers: tuple[int, ...] = ()
    """Choices that violate the client's schema."""
    is_accounted: bool = False
    """Whether its log line and counts are written."""
    outcome: str = "cancelled"
    """`ok`, `cancelled` or an error's code."""
    seconds: float = 0.0
    """Time from the request's arrival at the gateway to its end."""
    choices_per_prompt: int = 1
    ends: list[ChoiceEnd] = field(default_factory=list)
    """The choices that have ended."""
    broken: dict[int, Usage] = field(default_factory=dict)
    """The tokens of choices that had begun when the client left or the engine failed, by choice."""
    broken_s: float = 0.0
    """Seconds that engines worked on these, and for models that another one stood in for."""
    has_failed: bool = False
    """Whether a choice failed, for another reason than the client's."""
    aside: Usage = field(default_factory=lambda: Usage(prompt_tokens=0, completion_tokens=0))
    """The tokens of models that another one stood in for."""
    has_begun: bool = False
    """Whether the client got any part of the answer."""
    timeline: list[AttemptRecord] = field(default_factory=list)
    """The attempts, in the order in which they began."""
    arrived_s: float = 0.0
    """Monotonic seconds at its arrival at the gateway."""
    first_token_s: float | None = None
    """Seconds from its arrival to the first part of its answer."""
    prompt_tokens: int = 0
    """Tokens of its prompts, once they are counted."""
    generated: int = 0
    """Tokens generated so far."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    """Ends the request for an operator."""
    allowances: tuple[Allowance, ...] = ()
    """What is left of the caller's limits."""

    def add_end(self, end: ChoiceEnd) -> None:
        """Add the end of a choice."""
        self.ends.append(end)
        self.invalid_calls += end.invalid_calls
        self.invalid_answers += (end.choice,) * end.invalid_answer

    def set_aside(self) -> None:
        """Keep what a model used that another one stands in for from now on."""
        self.aside, self.broken_s, self.has_failed = self.consumed, self.engine_s, False
        self.ends.clear()
        self.broken.clear()

    @property
    def usage(self) -> Usage:
        """The tokens of the choices that have ended."""
        return total_usage(self.ends, self.choices_per_prompt)

    @property
    def consumed(self) -> Usage:
        """The tokens that quota and usage count: those of whole and of broken choices. Each prompt counts once a model."""
        choices = {end.choice: end.usage for end in self.ends} | self.broken
        prompts = {choice // self.choices_per_prompt: usage.prompt_tokens for choice, usage in choices.items()}
        return Usage(
            prompt_tokens=self.aside.prompt_tokens + sum(prompts.values()),
            completion_tokens=self.aside.completion_tokens + sum(usage.completion_tokens for usage in choices.values()),
            cached_tokens=self.aside.cached_tokens + self.usage.cached_tokens,
        )

    @property
    def engine_s(self) -> float:
        """Seconds that engines worked on the request."""
        return self.broken_s + sum(end.timings.prefill_s + end.timings.decode_s for end in self.ends)

    def log_fields(self) -> dict[str, LogValue]:
        """Return the fields of the request's log line, without any of its text."""
        usage = self.consumed
        return {
            "request_id": self.request_id,
            "key": self.caller.name,
            "model": self.served_model or "none",
            "task": self.task or "none",
            "engine": self.group or "none",
            "reason": self.reason or "none",
            "attempts": self.attempts,
            "outcome": self.outcome,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "seconds": round(self.seconds, 4),
        }
