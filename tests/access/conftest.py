"""The stores that several ingresses share, as in tests/store."""

from tests.store.conftest import opener, redis, running_redis

__all__ = ["opener", "redis", "running_redis"]
