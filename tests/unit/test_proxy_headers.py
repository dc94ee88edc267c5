"""What Serve's proxy sees of a client's headers."""

from typing import Any

import pytest

from deployments.proxy_headers import middlewares


async def _seen(*headers: tuple[bytes, bytes]) -> dict[bytes, bytes]:
    seen: dict[bytes, bytes] = {}

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope["headers"])

    (around,) = middlewares()
    await around.cls(proxy)({"type": "http", "headers": list(headers)}, None, None)  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("value", [b"caf\xe9", b"\xff\xfe", "日本".encode(), b"a b", b"", b"\xc2\xa0", b"x" * 201])
async def test_an_id_that_is_none_is_replaced(value: bytes) -> None:
    given = (await _seen((b"x-request-id", value)))[b"x-request-id"]
    assert given != value
    assert given.isalnum()


async def test_everything_else_stays_or_becomes_utf_8() -> None:
    plain = ((b"x-request-id", b"my-id"), (b"host", b"localhost"), (b"x-session-id", "é".encode()))
    assert await _seen(*plain) == dict(plain)
    for name in (b"x-session-id", b"traceparent", b"serve_multiplexed_model_id", b"x-request-timeout-seconds"):
        assert (await _seen((name, b"caf\xe9")))[name].decode() == "café"
