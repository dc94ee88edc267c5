"""LiteLLM against the running application, by its three ways to reach it."""

import gc
import json
from typing import Any

import pytest

from tests.live import LiveApp
from tests.serve.test_ollama import CALL, CIRCLE, MODEL


def _function(name: str, about: str, **kinds: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {each: {"type": kind} for each, kind in kinds.items()}, "required": list(kinds)}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


WEATHER = _function("get_weather", "Get the weather in a city", city="string")
TIMER = _function("set_timer", "Set a timer that goes off after some minutes", minutes="integer")
ADD = _function("add_numbers", "Add two numbers.", a="integer", b="integer")
SEARCH = _function("search_web", "Search the web", query="string")
LITELLM_ASKS: list[list[dict[str, str]]] = [
    [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "What is 15% of 240?"}],
    [
        {"role": "user", "content": "My name is Anna."},
        {"role": "assistant", "content": "Hello Anna! How can I help you?"},
        {"role": "user", "content": "What is my name?"},
    ],
    [{"role": "user", "content": "What is continuous batching?"}],
]
LITELLM_CALLS: list[tuple[str, list[dict[str, Any]], tuple[str, dict[str, Any]]]] = [
    ("Calculate the area of a circle with radius 5 units", [CIRCLE], ("calculate_circle_area", {"radius": 5})),
    ("What's the weather like in Tokyo?", [TIMER, WEATHER, ADD], ("get_weather", {"city": "Tokyo"})),
    ("Set a timer for 12 minutes.", [WEATHER, TIMER], ("set_timer", {"minutes": 12})),
    ("What is 17 + 25?", [ADD, WEATHER], ("add_numbers", {"a": 17, "b": 25})),
    ("Search for green tea.", [WEATHER, SEARCH, TIMER], ("search_web", {"query": "green tea"})),
]


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own
def test_litellm_says_the_same_three_ways(app: LiveApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch one otherwise
    litellm = pytest.importorskip("litellm")
    ways = {"ollama_chat/": app.url, "ollama/": app.url, "openai/": f"{app.url}/v1"}

    def ask(way: str, **more: Any) -> Any:
        options = {"temperature": 0, "api_base": ways[way], "api_key": "unused", "num_retries": 0}
        return litellm.completion(model=way + MODEL, **options, **more)

    for asked in LITELLM_ASKS:
        texts = {way: ask(way, messages=asked).choices[0].message.content for way in ways}
        assert len(set(texts.values())) == 1, texts
    streamed = {
        way: "".join(chunk.choices[0].delta.content or "" for chunk in ask(way, messages=asked, stream=True)) for way in ways
    }
    assert streamed == texts
    # `ollama/` sends no tools, but writes them into the prompt with "format": "json", and reads the answer as a call.
    for question, tools, wanted in LITELLM_CALLS:
        called = {}
        for way in ways:
            choice = ask(way, messages=[{"role": "user", "content": question}], tools=tools).choices[0]
            assert choice.finish_reason == "tool_calls", (way, question)
            called[way] = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
        assert called == {way: [wanted] for way in ways}
    gc.collect()  # what LiteLLM leaves unclosed must not meet another test


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own
def test_litellms_ollama_prefix_sends_no_tools_but_a_prompt_of_its_own(app: LiveApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no server can see the tools: its prompt gives the same JSON as the same prompt does in OpenAI's API."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    sent: list[dict[str, Any]] = []

    class Recorder(litellm.integrations.custom_logger.CustomLogger):  # type: ignore[misc]
        def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
            sent.append(kwargs["additional_args"]["complete_input_dict"])

    monkeypatch.setattr(litellm, "input_callback", [Recorder()])
    monkeypatch.setattr(litellm, "add_function_to_prompt", litellm.add_function_to_prompt)  # it sets that for good
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    told = litellm.completion(model=f"ollama/{MODEL}", messages=CALL, tools=[CIRCLE], api_base=app.url, num_retries=0, **options)
    (body,) = sent
    assert body["format"] == "json"
    assert "tools" not in body
    assert "calculate_circle_area" in body["prompt"]
    message: Any = {"role": "user", "content": body["prompt"]}
    wanted: Any = {"type": "json_object"}
    same = app.client().chat.completions.create(model=MODEL, messages=[message], response_format=wanted, **options).choices[0]
    (call,) = told.choices[0].message.tool_calls
    called = {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
    assert called == json.loads(same.message.content or "")
    gc.collect()
