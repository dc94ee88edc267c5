"""Reads the event stream of one `/completion` of llama.cpp's server. Knows the wire format only."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import aiohttp

from serve_app.errors import ContextOverflow, GenerationFailed
from serve_app.types import TokenLogprob, clamp_logprob


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One event of the stream."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    drawn: int = 0
    """Tokens generated so far in this call."""
    reused: int | None = None
    """Prompt tokens found in the slot's cache; only in the event that starts the prompt."""
    slot: int | None = None
    """The slot that computed the answer; only in the last event."""


async def read_events(response: aiohttp.ClientResponse, logprobs: int | None) -> AsyncGenerator[ServerEvent, None]:
    """Yield the events up to the last.

    Raises `ServeError` for the server's errors, for a stream without an end, and for one that withholds a token's id.
    """
    if response.status != 200:
        raise _translate_refusal(_parse(await response.read()))
    seen = 0
    async for line in _read_lines(response):
        value = _parse(line)
        if "error" in value:
            raise _translate_refusal(value)
        if "prompt_progress" in value:  # its `tokens` mean nothing
            yield ServerEvent(reused=int(value["prompt_progress"]["cache"]))
            continue
        drawn = int(value["tokens_predicted"])
        ids = tuple(map(int, value.get("tokens") or ()))
        seen += len(ids)
        if seen != drawn:
            raise GenerationFailed("llama.cpp's server withheld a token's id")
        top = () if logprobs is None else _read_logprobs(value.get("completion_probabilities") or (), logprobs)
        if value.get("stop"):
            yield ServerEvent(ids=ids, drawn=drawn, slot=int(value["id_slot"]))
            return
        yield ServerEvent(ids=ids, logprobs=top, drawn=drawn)
    raise GenerationFailed("llama.cpp's stream ended before the answer did")


async def _read_lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Yield the payload of each line, of any length; skip pings and empty lines."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith((b"data: ", b"error: ")):
                yield line.split(b": ", 1)[1]


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise GenerationFailed("llama.cpp's server sent a line that is not JSON") from error
    return value if isinstance(value, dict) else {}


def _translate_refusal(value: dict[str, Any]) -> ContextOverflow | GenerationFailed:
    """Return our error for the server's. Requests were checked before, so all but one of its refusals are faults of the engine."""
    fault = value.get("error") if isinstance(value.get("error"), dict) else value
    assert isinstance(fault, dict)
    if fault.get("type") == "exceed_context_size_error":
        return ContextOverflow("the prompt does not fit the context of the llama.cpp group; shorten the prompt")
    return GenerationFailed(f"llama.cpp refused the request ({str(fault.get('type') or 'no reason given')[:60]})")


def _read_logprobs(parts: Any, count: int) -> tuple[TokenLogprob, ...]:
    """Read the natural-log probabilities, which the server takes before its samplers and grammar.

    It writes the least float64 for a probability that float32 cannot hold.
    """
    return tuple(
        TokenLogprob(
            int(part["id"]),
            clamp_logprob(float(part["logprob"])),
            tuple((int(other["id"]), clamp_logprob(float(other["logprob"]))) for other in part["top_logprobs"][:count]),
        )
        for part in parts
    )
