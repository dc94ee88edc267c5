"""Turns values out of range into errors of the request that holds them. Knows no dialect and no gateway."""

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import InvalidRequest
from serve_app.types import InvalidValue


@contextmanager
def client_faults() -> Iterator[None]:
    """Turn an `InvalidValue` raised inside into an `InvalidRequest` that names the field."""
    try:
        yield
    except InvalidValue as error:
        raise InvalidRequest(str(error), param=error.field) from error
