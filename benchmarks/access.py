"""What keys, limits and usage cost a request: `python -m benchmarks.access` prints CPU and time with each store.

Method: one process, one event loop, one request after the other with a pause between them, so that nothing is shared with a
neighbour: the path of an idle server. Each request passes the check of its key (three limits or none), is reserved and settled, and
noted in the journal, as in the gateway; the task that keeps the store up to date runs beside it. CPU is that of all threads of this
process, less that of the same loop without any of this, and not that of the Redis server. "Added" is the time from the request's
beginning to the end of its reservation, which is what a client waits longer. Nothing is asserted: machines differ.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.access.accounts import Accounts
from serve_app.access.check import Access
from serve_app.access.keys import Key, KeyList, hash_key
from serve_app.access_config import AccessSettings
from serve_app.conversation import ChoiceEnd
from serve_app.http.access import AccessLayer, find_caller, keep_record
from serve_app.record import RequestRecord
from serve_app.store.base import Store
from serve_app.store.redis import RedisStore
from serve_app.store.sqlite import SqliteStore
from serve_app.types import FinishReason, Usage
from tests.store.servers import RedisServer

_END = ChoiceEnd(reason=FinishReason.STOP, usage=Usage(prompt_tokens=100, completion_tokens=100, cached_tokens=0))
_LIMITS = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrent": 64}


async def _run(asgi: Callable[..., Awaitable[None]], key: str, requests: int, pause_s: float) -> float:
    """Return CPU microseconds per request."""
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions"}
    scope["headers"] = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]  # type: ignore[assignment]

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    cpu = time.process_time()
    for _ in range(requests):
        await asgi(dict(scope), receive, send)
        await asyncio.sleep(pause_s)
    return (time.process_time() - cpu) / requests * 1e6


async def _measure(accounts: Accounts, access: Access, key: str, requests: int, pause_s: float) -> tuple[float, list[float]]:
    """Return CPU microseconds per request, those of the empty loop included, and the added milliseconds."""
    added: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        record = RequestRecord(request_id="r", caller=find_caller(scope), served_model="phi")
        keep_record(scope, record)
        accounts.limiter.require_room(record.caller, "phi")
        held = await accounts.limiter.reserve(record.caller, "phi", prompt_tokens=100, answer_tokens=100)
        record.allowances = accounts.limiter.show_allowances(record.caller, "phi")
        added.append((time.perf_counter() - began) * 1e3)
        record.add_end(_END)
        record.outcome, record.is_accounted = "ok", True
        accounts.usage.note(record)
        held.settle(200)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    layer = AccessLayer(app, access=access, refuse=lambda scope, error: Response(status_code=500))
    accounts.start()
    await _run(layer, key, 50, 0)
    added.clear()
    cpu = await _run(layer, key, requests, pause_s)
    await accounts.close()
    return cpu, added


async def _report(folder: Path, stores: dict[str, Callable[[], Store]], requests: int, pause_s: float) -> None:
    async def empty(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    await _run(empty, "", 50, 0)
    base = await _run(empty, "", requests, pause_s)
    print(f"the empty loop: {base:.0f} us of CPU a request, {requests} requests, {pause_s * 1e3:.0f} ms apart")
    print(f"{'store':<8}{'key':<12}{'share':>6}{'CPU us':>9}{'added ms: median':>20}{'p99':>8}")
    keys = (
        Key(name="free", sha256=hash_key("free")),
        Key.model_validate({"name": "limited", "sha256": hash_key("limited")} | _LIMITS),
    )
    file = folder / "keys.json"
    file.write_text(KeyList(keys=keys).model_dump_json())
    for kind, build in stores.items():
        for key in ("free", "limited"):
            for share in (0.05, 0.0):
                settings = AccessSettings(keys_file=str(file), journal_dir=str(folder / "journal"))
                accounts = Accounts.build(settings, build(), share=share)
                cpu, added = await _measure(accounts, Access(settings), key, requests, pause_s)
                p99 = statistics.quantiles(added, n=100)[98]
                print(f"{kind:<8}{key:<12}{share:>6}{cpu - base:>9.0f}{statistics.median(added):>20.3f}{p99:>8.3f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--pause-ms", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phi-") as name:
        folder = Path(name)
        server = RedisServer(folder)
        server.start()
        stores: dict[str, Callable[[], Store]] = {
            "sqlite": lambda: SqliteStore(folder / "state"),
            "redis": lambda: RedisStore(server.url, prefix="bench"),
        }
        try:
            asyncio.run(_report(folder, stores, options.requests, options.pause_ms / 1e3))
        finally:
            server.kill()


if __name__ == "__main__":
    main()
