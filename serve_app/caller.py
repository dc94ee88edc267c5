"""Who sent a request: a name, what it may do, and how much. Plain values, made by `serve_app.access`. Knows no HTTP and no key."""

from dataclasses import dataclass, field
from enum import StrEnum


class Scope(StrEnum):
    """What a caller may do."""

    USE = "use"
    """Ask models, and read what they are."""
    OPERATE = "operate"
    """Read metrics, the cluster's state and everybody's usage; create and delete models."""


class Priority(StrEnum):
    """Whose requests are refused first where an ingress has too many."""

    HIGH = "high"
    NORMAL = "normal"
    BATCH = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a key or a model; None: no bound."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and answer together."""
    concurrent: int | None = None
    """Requests under way at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The owner of a request."""

    name: str
    """Its key's name; `anonymous` without keys."""
    scopes: frozenset[Scope]
    models: tuple[str, ...] = ()
    """Models, aliases and variants that it may use; empty: all. Who may use a model may use its variants."""
    limits: Limits = field(default_factory=Limits)
    priority: Priority = Priority.NORMAL


ANONYMOUS = Caller(name="anonymous", scopes=frozenset(Scope), priority=Priority.HIGH)
"""Everybody, where no keys are asked for."""
STRANGER = Caller(name="none", scopes=frozenset())
"""Somebody without a valid key, on the endpoints that answer strangers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left of a limit, as answers show it."""

    kind: str
    """`requests` or `tokens`."""
    limit: int
    remaining: int
    resets_in_s: float
    """Seconds until the whole limit is free again."""
