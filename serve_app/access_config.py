"""Settings of who may use the application, `args.access` of serve_config.yaml. Knows no key and no HTTP."""

from typing import Any, Literal

from pydantic import Field, model_validator

from serve_app.caller import Limits
from serve_app.engine_config import Settings

MAX_LIMIT = 2**50
"""Bound of limits per minute: stores count exactly up to 2**53."""


class LimitsSettings(Settings):
    """Bounds of a key, or of a model for all keys together; None: no bound."""

    requests_per_minute: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Generating requests that begin within a minute of the clock."""
    tokens_per_minute: int | None = Field(None, ge=1, le=MAX_LIMIT)
    """Tokens of prompts and answers of these requests."""
    concurrent: int | None = Field(None, ge=1, le=100_000)
    """Generating requests under way at once."""

    def build_limits(self) -> Limits:
        """Return the bounds as a value."""
        return Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrent=self.concurrent,
        )


class AccessSettings(Settings):
    """Keys, limits and usage. The text `open` stands for {open: true}."""

    keys_file: str = "~/.local/share/phi-serve/keys.json"
    """The keys, made by `phi-serve keys create`; every ingress must be able to read it. Once it exists, every request needs a key.
    Without it only loopback addresses are served."""
    open: bool = False
    """Let everybody do everything, on any address, and ask for no keys."""
    models: dict[str, LimitsSettings] = Field(default_factory=dict)
    """Bounds of a model for all keys together, by its own name."""
    store_failure: Literal["fail_open", "fail_closed"] = "fail_open"
    """What becomes of limited requests while the store is away: `fail_open` counts in each ingress for itself, `fail_closed`
    answers 503."""
    reserved_share: float | None = Field(None, ge=0, le=0.5)
    """The share of a quota that an ingress may take from the store ahead of requests. With 0 each request is a call of the store.
    None: 0.05 with SQLite, where such a call is expensive, and 0 with Redis."""
    journal_dir: str | None = "~/.local/share/phi-serve/journal"
    """Folder for the usage of the last seconds, which a killed ingress leaves to the next one. None: it is lost."""

    @model_validator(mode="before")
    @classmethod
    def _read_open(cls, given: Any) -> Any:
        if given == "open":
            return {"open": True}
        if isinstance(given, str):
            raise ValueError(f"access: '{given[:40]}' is neither `open` nor settings such as keys_file")
        return given
