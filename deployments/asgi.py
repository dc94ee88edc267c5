"""Hides the peculiarities of Serve's HTTP path from the application. Knows nothing of the application."""

from ray.exceptions import RayError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ServeShim:
    """Translates between Serve's proxy and an ordinary ASGI application.

    The application gets `http.disconnect` when a client leaves, not Ray's exception. Its own `x-request-id` header is dropped,
    since Serve adds the same header to every response.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""

        async def receive_or_disconnect() -> Message:
            try:
                return await receive()
            except RayError:  # cancelled, or the proxy is gone
                return {"type": "http.disconnect"}

        async def send_without_request_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._app(scope, receive_or_disconnect, send_without_request_id)
