"""Builds the configured store, importing its database's client only then."""

from pathlib import Path

from serve_app.store.base import Store
from serve_app.store_config import RedisSettings, SqliteSettings


def build_store(settings: SqliteSettings | RedisSettings) -> Store:
    """Return the store of `settings`, which connects with its first call; raises `ValueError` without a usable URL."""
    if isinstance(settings, RedisSettings):
        from serve_app.store.redis import RedisStore

        return RedisStore(settings.read_url(), prefix=settings.prefix, timeout_s=settings.timeout_s)
    from serve_app.store.sqlite import SqliteStore

    return SqliteStore(Path(settings.path).expanduser(), timeout_s=settings.timeout_s, max_bytes=settings.max_bytes)
