"""What llama.cpp's server says on one `/completion`: events of its stream, with the ids that it drops filled in by their text.

Knows the wire; nothing of requests, slots or ends.
"""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import aiohttp

from serve_app.chat.tokenizer import Tokenizer
from serve_app.errors import ContextOverflow, GenerationFailed
from serve_app.types import TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSaid:
    """One event."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    drawn: int = 0
    """Tokens generated so far in this call."""
    reused: int | None = None
    """Prompt tokens found in the slot, told once the prompt is begun."""
    lost_end: bool = False
    """Told at the end: the last token was one that llama.cpp ends an answer by, and its id was dropped with half a character."""
    slot: int | None = None
    """The slot that computed it, told at the end."""


class Respeller:
    """Finds tokens for a text whose ids the server has dropped."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Know the ordinary tokens of `tokenizer`."""
        self._raw = tokenizer.raw
        self._ids = {tokenizer.raw(at): at for at in range(tokenizer.vocabulary.size) if at not in tokenizer.vocabulary.control_ids}
        self._longest = tokenizer.vocabulary.longest_token_bytes

    def spell(self, text: str, token: int) -> tuple[int, ...]:
        """Return ids for `text`, the last of them `token` where the text ends as it does."""
        rest, last = text.encode("utf-8", "replace"), self._raw(token)
        if not rest:
            return (token,)
        ends = last and rest.endswith(last)
        rest = rest[: len(rest) - len(last)] if ends else rest
        found = []
        while rest:
            size = next((size for size in range(min(self._longest, len(rest)), 0, -1) if rest[:size] in self._ids), 0)
            if not size:
                break
            found.append(self._ids[rest[:size]])
            rest = rest[size:]
        return (*found, token) if ends else tuple(found)


async def events(
    response: aiohttp.ClientResponse, logprobs: int | None, respeller: Respeller | None
) -> AsyncGenerator[ServerSaid, None]:
    """Yield the events up to the end; raises `ServeError` for the server's errors and for a stream without an end."""
    if response.status != 200:
        raise _refusal(_parsed(await response.read()))
    seen = 0
    async for line in _lines(response):
        value = _parsed(line)
        if "error" in value:
            raise _refusal(value)
        if "prompt_progress" in value:  # its `tokens` mean nothing
            yield ServerSaid(reused=int(value["prompt_progress"]["cache"]))
            continue
        drawn = int(value["tokens_predicted"])
        ids = tuple(map(int, value.get("tokens") or ()))
        if respeller is not None and ids and drawn - seen > len(ids):
            ids = respeller.spell(str(value["content"]), ids[-1])
        lost, seen = drawn > seen, drawn
        told = () if logprobs is None else _logprobs(value.get("completion_probabilities") or (), logprobs)
        if value.get("stop"):
            yield ServerSaid(ids=ids, drawn=drawn, lost_end=lost and value.get("stop_type") == "eos", slot=int(value["id_slot"]))
            return
        yield ServerSaid(ids=ids, logprobs=told, drawn=drawn)
    raise GenerationFailed("llama.cpp's stream ended before the answer did")


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Yield what the lines carry, of any length; pings and empty lines carry nothing."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith((b"data: ", b"error: ")):
                yield line.split(b": ", 1)[1]


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise GenerationFailed("llama.cpp's server said what is no JSON") from error
    return value if isinstance(value, dict) else {}


def _refusal(value: dict[str, Any]) -> ContextOverflow | GenerationFailed:
    """Requests are checked before, so all but one of the server's refusals are faults of the engine."""
    fault = value.get("error") if isinstance(value.get("error"), dict) else value
    assert isinstance(fault, dict)
    if fault.get("type") == "exceed_context_size_error":
        return ContextOverflow("the prompt does not fit the context of the llama.cpp group; shorten the prompt")
    return GenerationFailed(f"llama.cpp refused the request ({str(fault.get('type') or 'no reason given')[:60]})")


def _logprobs(parts: Any, count: int) -> tuple[TokenLogprob, ...]:
    """Read the natural-log probabilities, which the server takes before penalties and temperature."""
    return tuple(
        TokenLogprob(
            int(part["id"]),
            float(part["logprob"]),
            tuple((int(other["id"]), float(other["logprob"])) for other in part["top_logprobs"][:count]),
        )
        for part in parts
    )
