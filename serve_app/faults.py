"""Where values out of range become faults of the request that brought them. Knows no dialect and no gateway."""

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
