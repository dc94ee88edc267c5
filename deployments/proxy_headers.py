"""Headers that Serve's HTTP proxy can read, whatever bytes a client sent.

Serve decodes some headers as UTF-8 and answers 500 in plain text where that fails, before the application hears of the request.
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares` (cluster/serve.env). Imports nothing heavy: it runs in the proxy.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http.request_ids import choose_request_id

_REQUEST_ID = b"x-request-id"


class ReadableHeaders:
    """Passes values that are not UTF-8 on as if they were Latin-1, and gives a request without a usable id a new one.

    Serve puts the id that it finds here on the answer, so it is the one that the application logs and shows.
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
    """Return what Serve's proxy puts around itself."""
    return [Middleware(ReadableHeaders)]
