"""Makes headers of any bytes readable for Serve's HTTP proxy.

Serve decodes some headers as UTF-8. Where that fails it answers 500 in plain text, and the application never sees the request.
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares` (cluster/serve.env). Imports nothing heavy: it runs in the proxy.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http.request_ids import choose_request_id

_REQUEST_ID = b"x-request-id"


class ReadableHeaders:
    """Decodes header values that are not UTF-8 as Latin-1, and replaces a missing or unusable request id.

    Serve copies this id to the response, so it equals the id that the application logs and shows.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "lifespan":
            scope["headers"] = [(name, _make_readable(name, value)) for name, value in scope["headers"]]
        await self._app(scope, receive, send)


def _make_readable(name: bytes, value: bytes) -> bytes:
    if name == _REQUEST_ID:
        return choose_request_id(value.decode("latin-1")).encode()
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return value


def middlewares() -> list[Middleware]:
    """Return the middlewares for Serve's proxy."""
    return [Middleware(ReadableHeaders)]
