"""Settings of the store, `args.store` of serve_config.yaml. Knows no database."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from serve_app.engine_config import Settings


class SqliteSettings(Settings):
    """A store in a file, for the ingresses of one machine."""

    kind: Literal["sqlite"] = "sqlite"
    path: str = "~/.local/share/phi-serve/state"
    """Folder of the file, on a local disk."""
    max_bytes: int = Field(4 << 30, ge=1 << 20)
    """Size at which the file is full."""
    timeout_s: float = Field(2.0, gt=0, le=60)
    """Longest time that a call may take."""


class RedisSettings(Settings):
    """A store in a Redis server, for ingresses on several machines."""

    kind: Literal["redis"]
    url_env: str | None = None
    """Environment variable with the server's URL: redis://, rediss:// (TLS) or unix://, with its user and password."""
    url_file: str | None = None
    """File that holds the URL instead."""
    prefix: str = Field("phi-serve", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Beginning of every key, so that several applications can share a server."""
    timeout_s: float = Field(2.0, gt=0, le=60)
    """Longest time that a call may take."""

    @model_validator(mode="after")
    def _check_url(self) -> "RedisSettings":
        if (self.url_env is None) == (self.url_file is None):
            raise ValueError("store: give one of url_env and url_file; the URL itself does not belong into the configuration")
        return self

    def read_url(self) -> str:
        """Return the URL; raises `ValueError` in one sentence without it."""
        if self.url_env is not None:
            if not (url := os.environ.get(self.url_env, "").strip()):
                raise ValueError(f"store.url_env: the environment variable {self.url_env} is not set")
            return url
        assert self.url_file is not None
        try:
            return Path(self.url_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError("store.url_file: the file cannot be read") from None


class ResponsesSettings(Settings):
    """Answers that are kept in the store for later requests of the same key (`/v1/responses`). They contain users' text."""

    keep: bool = True
    """Whether any is kept; clients leave out single ones with `store: false`."""
    days: float = Field(30.0, ge=0.001, le=365)
    """How long each is kept."""
    max_count: int = Field(10_000, ge=1, le=1 << 24)
    """How many are kept; newer ones replace the oldest."""
    max_bytes: int = Field(1 << 30, ge=1 << 20)
    """How much they take together; one may take a quarter of it."""


StoreSettings = Annotated[SqliteSettings | RedisSettings, Field(discriminator="kind")]
