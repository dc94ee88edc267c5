"""The recorded requests of other people's clients, and how they are sent again."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

RECORDED = Path(__file__).parent / "recorded"
CLIENTS = sorted(file.stem for file in RECORDED.glob("*.json"))
LARGE = ("claude-code", "codex")
"""Clients whose prompts exceed the context of the demo model's groups."""
_KEPT_ID = re.compile(r"\b(resp|msg|fc|rs)_[0-9a-f]{38}(_\d+)?")


@dataclass(frozen=True)
class Exchange:
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def continues(self) -> bool:
        """Whether it has a tool's result."""
        return any(mark in json.dumps(self.body) for mark in ('"function_call_output"', '"tool_result"', '"role": "tool"'))


@dataclass(frozen=True)
class Recording:
    """What one client sent."""

    tool: dict[str, Any]
    exchanges: tuple[Exchange, ...]


def read_recording(client: str) -> Recording:
    given = json.loads((RECORDED / f"{client}.json").read_text())
    exchanges: list[Exchange] = []
    for each in given["exchanges"]:
        before = exchanges[-1].body if each.get("like_before") else {}
        exchanges.append(Exchange(each["path"], each["headers"], before | each["body"]))
    return Recording(given["tool"], tuple(exchanges))


def renew_ids(body: dict[str, Any], answer: str) -> dict[str, Any]:
    """Return a body that refers to the items of `answer` where it referred to those of the recorded one."""
    known = {(found[1], found[2]): found[0] for found in _KEPT_ID.finditer(answer)}
    text = _KEPT_ID.sub(lambda found: known.get((found[1], found[2]), found[0]), json.dumps(body))
    renewed: dict[str, Any] = json.loads(text)
    return renewed


_TYPES: dict[str, tuple[Any, Any]] = {
    "/v1/chat/completions": (ChatCompletion, ChatCompletionChunk),
    "/v1/responses": (Response, ResponseStreamEvent),
    "/v1/messages": (Message, RawMessageStreamEvent),
}


def read_answer(path: str, text: str, *, stream: bool) -> tuple[list[str], str]:
    """Return the names of the called tools and the text of an answer, every part of which must fit the SDK's types."""
    whole, event = _TYPES[path.partition("?")[0]]
    adapter: TypeAdapter[Any] = TypeAdapter(event if stream else whole)
    parts = [line[6:] for line in text.splitlines() if line.startswith("data: {")] if stream else [text]
    parts = [part for part in parts if part != '{"type":"ping"}']  # Anthropic's SDK drops these before it reads the others
    read = [adapter.validate_json(part) for part in parts]
    return _READERS[path.partition("?")[0]](read)


def _read_chat(parts: list[Any]) -> tuple[list[str], str]:
    turns = [getattr(choice, "delta", None) or choice.message for part in parts for choice in part.choices]
    names = [call.function.name for turn in turns for call in turn.tool_calls or () if call.function and call.function.name]
    return names, "".join(turn.content or "" for turn in turns)


def _read_responses(parts: list[Any]) -> tuple[list[str], str]:
    response = getattr(parts[-1], "response", parts[-1])
    assert response.status == "completed"
    return [item.name for item in response.output if item.type == "function_call"], response.output_text


def _read_messages(parts: list[Any]) -> tuple[list[str], str]:
    if isinstance(parts[0], Message):
        blocks, texts = parts[0].content, [block.text for block in parts[0].content if block.type == "text"]
    else:
        assert parts[-1].type == "message_stop"
        blocks = [part.content_block for part in parts if part.type == "content_block_start"]
        texts = [part.delta.text for part in parts if part.type == "content_block_delta" and part.delta.type == "text_delta"]
    return [block.name for block in blocks if block.type == "tool_use"], "".join(texts)


_READERS = {"/v1/chat/completions": _read_chat, "/v1/responses": _read_responses, "/v1/messages": _read_messages}
