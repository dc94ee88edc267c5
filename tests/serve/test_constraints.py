"""Constraints of the kinds that people report against other servers, over HTTP: every group, whole and streamed, both dialects."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.live import GROUPS, LiveApp

HELLO: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(params=GROUPS)
def ask(request: pytest.FixtureRequest, app: LiveApp) -> Iterator["Ask"]:
    """One group in turn, asked whole and streamed."""
    with httpx.Client(base_url=app.url, headers={"x-engine": request.param}, timeout=120) as client:
        yield Ask(client)


class Ask:
    """Asks a group in every way that says the same."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def status(self, **body: Any) -> int:
        return self.client.post(
            "/v1/chat/completions", json={"model": "phi-4-mini", "messages": HELLO, "temperature": 0} | body
        ).status_code

    def chat(self, **body: Any) -> tuple[str, list[tuple[str, str]], str]:
        """Return text, calls and finish reason; whole and streamed they are equal."""
        whole = self.client.post("/v1/chat/completions", json={"model": "phi-4-mini", "messages": HELLO, "temperature": 0} | body)
        assert whole.status_code == 200, whole.text
        (choice,) = whole.json()["choices"]
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in choice["message"].get("tool_calls") or ()]
        found = choice["message"]["content"] or "", calls, choice["finish_reason"]
        assert self._streamed({"model": "phi-4-mini", "messages": HELLO, "temperature": 0, "stream": True} | body) == found
        return found

    def _streamed(self, body: dict[str, Any]) -> tuple[str, list[tuple[str, str]], str]:
        text, reason = "", ""
        calls: dict[int, tuple[str, str]] = {}
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                reason = choice["finish_reason"] or reason
                text += choice["delta"].get("content") or ""
                for call in choice["delta"].get("tool_calls") or ():
                    name, arguments = calls.get(call["index"], ("", ""))
                    given = call["function"]
                    calls[call["index"]] = name + given.get("name", ""), arguments + given["arguments"]
        return text, list(calls.values()), reason

    def ollama(self, **body: Any) -> str:
        """Return the text of /api/chat, whole and streamed."""
        asked = {"model": "phi4-mini", "messages": HELLO, "options": {"temperature": 0}} | body
        whole = self.client.post("/api/chat", json=asked | {"stream": False})
        assert whole.status_code == 200, whole.text
        lines = self.client.post("/api/chat", json=asked).text.split("\n")[:-1]
        said = "".join(json.loads(line)["message"]["content"] for line in lines)
        assert said == whole.json()["message"]["content"]
        return said


def format_(schema: dict[str, Any], *, strict: bool = False) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "t", "schema": schema, "strict": strict}}}


def one(name: str, value: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


@pytest.mark.parametrize("spelled", ["<|end|>", "x<|end|>y", "<|tool_call|>[]", "<|endoftext|>"])
def test_the_spelling_of_a_control_token_is_text(ask: Ask, spelled: str) -> None:
    value = one("a", {"const": spelled})
    expected = json.dumps({"a": spelled})
    assert ask.chat(**format_(value)) == (expected, [], "stop")
    assert ask.chat(**format_(one(spelled, {"const": 1}), strict=True)) == (json.dumps({spelled: 1}), [], "stop")
    assert ask.chat(structured_outputs={"choice": [spelled]}) == (spelled, [], "stop")
    assert ask.ollama(format=value) == expected
    raw = {"model": "phi-4-mini", "prompt": "x", "structured_outputs": {"choice": [spelled]}, "temperature": 0}
    assert ask.client.post("/v1/completions", json=raw).json()["choices"][0]["text"] == spelled


@pytest.mark.parametrize("spelled", ["<|end|>", "<|/tool_call|>"])
def test_tools_whose_schemas_spell_control_tokens_are_called_and_harm_nobody(ask: Ask, spelled: str) -> None:
    """Five failures would open a breaker."""
    function = {"name": "get_weather", "parameters": one("city", {"enum": [spelled]})}
    tools = [{"type": "function", "function": function}]
    for _ in range(3):
        text, calls, reason = ask.chat(tools=tools, tool_choice="required", parallel_tool_calls=False)
        assert (text, calls, reason) == ("", [("get_weather", json.dumps({"city": spelled}))], "tool_calls")
    weather: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    for strict in (False, True):
        text, calls, _ = ask.chat(tools=[{"type": "function", "function": function | {"strict": strict}}], messages=weather)
        assert all(json.loads(arguments) == {"city": spelled} for _, arguments in calls)
        assert text or calls
    assert ask.status() == 200


@pytest.mark.parametrize("wish", [{"regex": ".*"}, {"regex": "(.|\\n)*"}, {"grammar": "start: /(.|\\n)*/"}], ids=str)
def test_what_may_end_ends_where_the_model_ends(ask: Ask, wish: dict[str, str]) -> None:
    assert ask.chat(structured_outputs=wish) == ask.chat()


def test_a_number_ends_in_every_api(ask: Ask) -> None:
    sum_: Any = [{"role": "user", "content": "What is 2+2?"}]
    text, _, reason = ask.chat(messages=sum_, **format_({"type": "integer"}))
    assert (text.isdigit(), len(text) < 4, reason) == (True, True, "stop")
    assert ask.chat(messages=sum_, structured_outputs={"regex": "[0-9]+"}) == (text, [], "stop")
    assert ask.ollama(messages=sum_, format={"type": "integer"}) == text
    raw = {
        "model": "phi-4-mini",
        "prompt": "<|user|>What is 2+2?<|end|><|assistant|>",
        "structured_outputs": {"regex": "[0-9]+"},
        "temperature": 0,
    }
    choice = ask.client.post("/v1/completions", json=raw | {"max_tokens": 50}).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, "stop")


def test_alternatives_that_part_within_a_character(ask: Ask) -> None:
    for options in (["é", "ü"], ["日本", "中国"], ["\x7f", "b"], ["\u2028", "\u2029"]):
        assert ask.chat(structured_outputs={"choice": options})[0] in options
        assert json.loads(ask.chat(**format_({"enum": options}))[0]) in options
        assert json.loads(ask.ollama(format={"enum": options})) in options


def test_an_address_as_a_format(ask: Ask) -> None:
    for schema in ({"type": "string", "format": "uri"}, {"anyOf": [{"type": "null"}, {"type": "string", "format": "uri"}]}):
        text, _, reason = ask.chat(max_tokens=40, **format_(schema))
        assert reason == "length" or json.loads(text) is None or ":" in json.loads(text)


def test_a_pattern_alone_and_beside_tools(ask: Ask) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    for pattern, text in ((r"a\/b", "a/b"), ("a/b", "a/b"), ('"x"', '"x"')):
        assert ask.chat(structured_outputs={"regex": pattern}) == (text, [], "stop")
        said, calls, _ = ask.chat(structured_outputs={"regex": pattern}, tools=tools)
        assert said == text or calls


@pytest.mark.parametrize("pattern", ["(x+x+)+y{30000}", "x+y{20000}", "((x{1,300}){1,300}){1,300}y{9000}"])
def test_what_nobody_could_follow_is_refused_or_cut_and_stops_nobody(ask: Ask, pattern: str) -> None:
    assert ask.status(structured_outputs={"regex": pattern}, max_tokens=300) in (200, 400)
    ambiguous = {"grammar": 's: s s | "x"\nstart: s'}
    assert ask.status(structured_outputs=ambiguous, max_tokens=300) == 400
    assert ask.status() == 200


def test_a_call_that_is_cut_before_its_name_leaves_nothing(ask: Ask) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": one("city", {"enum": ["Paris"]})}}]
    for limit in range(1, 12):
        text, calls, reason = ask.chat(tools=tools, tool_choice="required", max_tokens=limit)
        assert (text, reason) == ("", "length")
        assert [name for name, _ in calls] in ([], ["get_weather"])
