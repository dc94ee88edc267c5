"""The application that is measured, over HTTP: its groups, its tokenizer, and streamed answers with the time of each chunk.

It shares the machine with what it measures, so it reads streams without parsing them: a chunk with a choice is recognised by
its bytes.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from serve_app.bench.plan import PATHS, BenchError, Endpoint
from serve_app.bench.record import GroupFacts, Sample

JsonObject = dict[str, Any]
_QUERY_TIMEOUT_S = 30.0
_DATA, _CHOICE, _DONE, _ERROR = b"data: ", b'"choices":[{', b"data: [DONE]", b'data: {"error":'
_EVENT_END = b"\n\n"
_ENCODERS = ("onnx_encoder",)


class Target:
    """One application; an asynchronous context that holds its connections."""

    def __init__(self, url: str, headers: Mapping[str, str], endpoint: Endpoint, timeout_s: float) -> None:
        """Ask the application at `url`; `headers` go with every request."""
        self.url = url
        self._headers = dict(headers)
        self._endpoint: Endpoint = endpoint
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        """Open the session."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(headers=self._headers, connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close all connections, which ends what is being generated."""
        await self._session.close()

    async def list_groups(self) -> dict[str, GroupFacts]:
        """Return the ready groups that generate; raises `BenchError`, also where there are none."""
        health = await self._query("/health", None, accept=(200, 503))
        groups = health.get("groups", {})
        ready = {name: group for name, group in groups.items() if group.get("phase") == "ready"}
        if ready and not all("model" in group for group in ready.values()):
            raise BenchError(
                "this key may not see the groups' models; use one with the scope 'operate' or without a list of models"
            )
        generating = {name: group for name, group in ready.items() if group["engine"] not in _ENCODERS}
        if not generating:
            phases = ", ".join(f"{name} {group.get('phase')}" for name, group in groups.items()) or "none"
            raise BenchError(f"no group is ready to generate (groups: {phases}); curl {self.url}/health shows more")
        return {
            name: GroupFacts(
                model=group["model"],
                engine=group["engine"],
                precision=group["precision"],
                context_length=group["context_length"],
                replicas=group["replicas"],
            )
            for name, group in generating.items()
        }

    async def count_text(self, model: str, text: str) -> int:
        """Return the tokens of a text; raises `BenchError`."""
        return int((await self._query("/tokenize", {"model": model, "prompt": text}))["count"])

    async def count_prompt(self, model: str, text: str) -> int:
        """Return the tokens of a prompt with this text, as the measured endpoint makes it; raises `BenchError`."""
        return int((await self._query("/tokenize", {"model": model} | _wrap(self._endpoint, text)))["count"])

    def encode_body(self, model: str, text: str, answer_tokens: int, temperature: float) -> bytes:
        """Return the body of a request for a streamed answer of exactly so many tokens."""
        body = {
            "model": model,
            "max_tokens": answer_tokens,
            "ignore_eos": True,
            "temperature": temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(body | _wrap(self._endpoint, text), allow_nan=False).encode()

    async def ask(self, body: bytes, group: str, sample: Sample) -> None:
        """Send a request to a group and note in `sample` what comes, and when; failures are noted too, none is raised."""
        headers = {"content-type": "application/json", "x-engine": group}
        sent = time.perf_counter()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(self.url + PATHS[self._endpoint], data=body, headers=headers) as response,
            ):
                sample.group = response.headers.get("x-engine", "")
                sample.attempts = int(response.headers.get("x-attempts", "0"))
                if response.status != 200:
                    sample.failure = f"{response.status} {_read_code(await response.read())}".rstrip()
                else:
                    await _read_stream(response, sent, sample)
        except TimeoutError:
            sample.failure = f"no end within {self._timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            sample.failure = f"connection: {type(error).__name__}"
        sample.ended_s = time.perf_counter() - sent

    async def _query(self, path: str, body: JsonObject | None, accept: tuple[int, ...] = (200,)) -> JsonObject:
        try:
            async with (
                asyncio.timeout(_QUERY_TIMEOUT_S),
                self._session.request("GET" if body is None else "POST", self.url + path, json=body) as response,
            ):
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise BenchError(f"nothing answers at {self.url}; start it with `make serve`, or name another with --url") from error
        if response.status not in accept:
            raise BenchError(f"{path}: {_read_message(raw) or f'the server answered {response.status}'}")
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BenchError(f"the server at {self.url} is not phi-serve: its answer to {path} is not a JSON object")
        return answer


def _wrap(endpoint: Endpoint, text: str) -> JsonObject:
    """Return the field of a text, the same for the endpoint and for /tokenize."""
    return {"messages": [{"role": "user", "content": text}]} if endpoint == "chat" else {"prompt": text}


async def _read_stream(response: aiohttp.ClientResponse, sent: float, sample: Sample) -> None:
    """Note the chunks of a stream; one that does not end as it should is a failure."""
    rest, usage, done = b"", b"", False
    async for data in response.content.iter_any():
        now = time.perf_counter() - sent
        *events, rest = (rest + data).split(_EVENT_END)
        for event in events:
            if _CHOICE in event:
                sample.chunks_s.append(now)
            elif event.startswith(_ERROR):
                sample.failure = f"stream {_read_code(event.removeprefix(_DATA))}".rstrip()
            elif event.startswith(_DONE):
                done = True
            elif event.startswith(_DATA):
                usage = event
    if sample.failure:
        return
    if not done or not usage or not sample.chunks_s:
        sample.failure = "stream without its end"
        return
    counts = json.loads(usage.removeprefix(_DATA))["usage"]
    sample.prompt_tokens, sample.completion_tokens = counts["prompt_tokens"], counts["completion_tokens"]
    sample.cached_tokens = (counts.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def _read_error(raw: bytes) -> JsonObject:
    try:
        error = json.loads(raw)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _read_code(raw: bytes) -> str:
    """Return the error's code; empty where the body has none."""
    return str(_read_error(raw).get("code") or "")


def _read_message(raw: bytes) -> str:
    return str(_read_error(raw).get("message") or "")
