"""A scripted server of the operations API and its page, for tests and for work on the page: `python -m tests.pages.ops_server`.

The application's own layer serves the page's files; every path of the API is answered from a `World`. A test drives it directly: it
lets time pass, drops streams or refuses. It does not check what only the real API can know.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve_app.http.pages import PagesLayer, load_files
from tests.pages import ops_data as data
from tests.pages.ops_world import World

KEY = "sk-operator"
WEAK_KEY = "sk-without-operate"
TICKET = "ticket-of-the-terminal"


class Scripted:
    """The server's world and what a test may do to it."""

    def __init__(self, needs: str = "nothing", now: float | None = None) -> None:
        self.needs = needs
        self.world = World(time.time() if now is None else now)
        self.ticket: str | None = TICKET
        self.refusals: dict[str, tuple[int, str]] = {}
        """Ends of paths that are answered by an error: status and message."""
        self.down = False
        """Whether new streams are answered by 503."""
        self.calls: list[tuple[str, str, Any]] = []
        """Method, path and body of every request but those of files."""
        self.opened = 0
        """Streams opened so far."""
        self._viewers: set[asyncio.Queue[bytes | None]] = set()

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    def send(self, event: str, value: Any) -> None:
        """Send an event to every open stream."""
        encoded = _encode(event, value)
        for each in self._viewers:
            each.put_nowait(encoded)

    def tick(self, seconds: float = 2.0) -> None:
        """Let time pass and tell the viewers."""
        ended = self.world.tick(seconds)
        if ended:
            self.send("requests", {"finished": ended})
        self.send("state", self.world.snapshot())

    def publish(self) -> None:
        """Send the state as it is."""
        self.send("state", self.world.snapshot())

    def measure(self) -> None:
        self.send("point", self.world.measure())

    def drop(self) -> None:
        """End every stream."""
        for each in self._viewers:
            each.put_nowait(None)

    def refuse(self, path_end: str, status: int, message: str) -> None:
        self.refusals[path_end] = (status, message)

    async def play(self, every_s: float = 2.0) -> None:
        """Let time pass by the clock until cancelled."""
        count = 0
        while True:
            await asyncio.sleep(every_s)
            self.tick(every_s)
            count += 1
            if count % 5 == 0:
                self.measure()

    async def stream(self) -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._viewers.add(queue)
        self.opened += 1
        try:
            yield b": ping\n\n" + _encode("hello", self.world.hello())
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._viewers.discard(queue)


def _encode(event: str, value: Any) -> bytes:
    return f"event: {event}\ndata: {json.dumps(value, allow_nan=False)}\n\n".encode()


def _fail(status: int, message: str, code: str = "scripted") -> JSONResponse:
    return JSONResponse({"error": {"message": message, "code": code}}, status)


class Api:
    """The endpoints over one `Scripted`."""

    def __init__(self, scripted: Scripted) -> None:
        self._scripted = scripted

    def build(self) -> Starlette:
        own = "/v1/operations"
        return Starlette(
            routes=[
                Route(f"{own}/session", self.session),
                Route(f"{own}/session", self.redeem, methods=["POST"]),
                Route(own, self.guard(self.open_stream)),
                Route(f"{own}/requests", self.guard(self.list_requests)),
                Route(f"{own}/requests/{{id}}", self.guard(self.show_request)),
                Route(f"{own}/requests/{{id}}/cancel", self.guard(self.cancel), methods=["POST"]),
                Route(f"{own}/groups/{{group}}/{{action}}", self.guard(self.act), methods=["POST"]),
                Route(f"{own}/configuration", self.guard(self.configuration)),
                Route(f"{own}/configuration/diff", self.guard(self.diff), methods=["POST"]),
                Route(f"{own}/logs", self.guard(self.logs)),
                Route(f"{own}/bundle", self.guard(self.bundle)),
            ]
        )

    def guard(self, answer: Any) -> Any:
        """Wrap an endpoint: record the call, then ask for the key or the session, then for a scripted refusal."""

        async def guarded(request: Request) -> Response:
            raw = (await request.body()).decode()
            self._scripted.calls.append((request.method, request.url.path, raw))
            if refusal := self._refuse(request):
                return refusal
            for end, (status, message) in self._scripted.refusals.items():
                if request.url.path.endswith(end):
                    return _fail(status, message)
            reply: Response = await answer(request)
            return reply

        return guarded

    def _refuse(self, request: Request) -> Response | None:
        bearer = request.headers.get("authorization")
        if self._scripted.needs == "nothing":
            return None
        if self._scripted.needs == "ticket":
            allowed = request.headers.get("x-operator-token") == data.TOKEN["token"]
            return None if allowed else _fail(401, "open the address that the terminal prints", "unauthenticated")
        if bearer == f"Bearer {WEAK_KEY}":
            return _fail(403, "this key lacks the scope operate", "forbidden")
        return None if bearer == f"Bearer {KEY}" else _fail(401, "this needs an API key", "unauthenticated")

    async def session(self, request: Request) -> Response:
        return JSONResponse(data.SESSION | {"needs": self._scripted.needs, "may_operate": self._refuse(request) is None})

    async def redeem(self, request: Request) -> Response:
        given = (await request.json())["ticket"]
        if self._scripted.ticket is None or given != self._scripted.ticket:
            return _fail(401, "this ticket is unknown or was used before", "unauthenticated")
        self._scripted.ticket = None
        return JSONResponse(data.TOKEN | {"expires_at": time.time() + 86_400})

    async def open_stream(self, request: Request) -> Response:
        if self._scripted.down:
            return _fail(503, "the ingress is restarting")
        return StreamingResponse(self._scripted.stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def list_requests(self, request: Request) -> Response:
        return JSONResponse(
            {"object": "list", "data": self._scripted.world.finished[: int(request.query_params.get("limit", 200))]}
        )

    async def show_request(self, request: Request) -> Response:
        found = self._scripted.world.details.get(request.path_params["id"])
        return JSONResponse(found) if found else _fail(404, "no ingress remembers this request", "not_found")

    async def cancel(self, request: Request) -> Response:
        name = request.path_params["id"]
        if name not in self._scripted.world.live:
            return _fail(404, f"the request {name} does not run", "not_found")
        ended = self._scripted.world.end(name, "cancelled")
        self._scripted.send("requests", {"finished": [ended]})
        self._scripted.publish()
        return JSONResponse(data.ANSWERS["cancel"] | {"id": name})

    async def act(self, request: Request) -> Response:
        world, name, action = self._scripted.world, request.path_params["group"], request.path_params["action"]
        body = json.loads(await request.body() or b"{}")
        if action in ("drain", "resume"):
            answer = getattr(world, action)(name, body.get("replica"))
        elif action == "scale":
            answer = world.scale(name, body["min"], body.get("max"))
        else:
            answer = getattr(world, action)(name)
        self._scripted.publish()
        return JSONResponse(answer)

    async def configuration(self, request: Request) -> Response:
        return JSONResponse(data.CONFIGURATION)

    async def diff(self, request: Request) -> Response:
        text = (await request.body()).decode()
        if "max_attempts: 3" in text:
            return JSONResponse(data.DIFF | {"changes": []})
        return JSONResponse(data.DIFF) if "routing" in text else _fail(400, "line 1: this is no configuration", "invalid_request")

    async def logs(self, request: Request) -> Response:
        wanted, count = request.query_params.get("group"), int(request.query_params.get("lines", 200))
        now = self._scripted.world.now
        sources = []
        for group in self._scripted.world.groups.values():
            for each in group["replicas"] if wanted in (None, group["name"]) else []:
                if request.query_params.get("replica") in (None, each["id"]):
                    lines = [_log_line(now - 2 * step, each["id"], step) for step in range(min(count, 60), 0, -1)]
                    sources += data.logs(group["name"], each["id"], lines)["sources"]
        if wanted in (None, "ingress"):
            sources += data.logs("ingress", "ab12", [_log_line(now, "ab12", 3)])["sources"]
        return JSONResponse(data.LOGS | {"sources": sources})

    async def bundle(self, request: Request) -> Response:
        name = {"content-disposition": 'attachment; filename="phi-serve-bundle.zip"'}
        return Response(b"PK\x05\x06" + bytes(18), media_type="application/zip", headers=name)


def _log_line(at: float, name: str, step: int) -> str:
    level, text = ("WARNING", "a step took 2.1 s") if step % 9 == 0 else ("INFO", f"step {step}: 3 sequences, 51 tokens")
    return f"{time.strftime('%H:%M:%S', time.gmtime(at))} {level} {name} {text}"


@asynccontextmanager
async def serving(scripted: Scripted, port: int = 0) -> AsyncIterator[str]:
    """Serve on this loop; yields the address."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(PagesLayer(Api(scripted).build()), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listener]))  # `serve` would take the process's signal handlers
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            scripted.drop()
            server.should_exit = server.force_exit = True
            await task


async def _develop(port: int, needs: str) -> None:
    scripted = Scripted(needs)
    async with serving(scripted, port) as url:
        print(f"{url}/ops (needs: {needs}; ticket: {url}/ops#ticket={TICKET}; key: {KEY})", flush=True)
        playing = asyncio.create_task(scripted.play())
        while not playing.done():
            await asyncio.sleep(1)
            load_files.cache_clear()  # what was edited is served


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv[1:]))
    asyncio.run(_develop(int(arguments.get(0, "8123")), arguments.get(1, "nothing")))
