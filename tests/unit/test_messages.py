"""Messages of OpenAI's bodies, on every endpoint that takes them: what an assistant said before, and what no model here takes."""

from typing import Any

import pytest

from tests.unit.app import App, running

CHAT = "/v1/chat/completions"
PATHS = (CHAT, f"{CHAT}/render", "/tokenize", "/v1/route")
HI = {"role": "user", "content": "hi"}


async def _post(app: App, path: str, messages: list[dict[str, Any]]) -> Any:
    return await app.client.post(path, json={"messages": messages})


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"content": None, "refusal": "No."}, "No."),
        ({"refusal": "No."}, "No."),
        ({"content": "", "refusal": "No."}, "No."),
        ({"content": "Well. ", "refusal": "No."}, "Well. No."),
        ({"content": "Yes.", "refusal": None, "audio": None, "function_call": None, "tool_calls": None}, "Yes."),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": [{"type": "text", "text": "Well. "}, {"type": "refusal", "refusal": "No."}]}, "Well. No."),
        ({"content": "Spoken.", "audio": {"id": "audio_1"}}, "Spoken."),
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_what_an_assistant_refused_reaches_the_model(path: str, said: dict[str, Any], shown: str) -> None:
    async with running(a={}) as app:
        response = await _post(app, path, [HI, {"role": "assistant", **said}, HI])
        prompt = (await _post(app, f"{CHAT}/render", [HI, {"role": "assistant", **said}, HI])).json()["prompt"]
    assert response.status_code == 200, response.text
    assert f"<|assistant|>{shown}<|end|>" in prompt


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "images are not served by this model"),
        ({"type": "input_image", "image_url": "https://x/y.png"}, "images are not served by this model"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio is not served by this model"),
        ({"type": "video_url", "video_url": {"url": "https://x/y.mp4"}}, "videos are not served by this model"),
        ({"type": "file", "file": {"file_id": "file_1"}}, "files are not served by this model"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_media_are_refused_by_name(path: str, part: dict[str, Any], said: str) -> None:
    async with running(a={}) as app:
        response = await _post(app, path, [HI, {"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}])
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported", "messages.1.content.1")
    assert said in error["message"]
    assert "TextPart" not in error["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, "messages.0.content.0.refusal"),
        ({"role": "user", "content": [{"type": "poem", "text": "x"}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages.0.content.0.type"),
        ({"role": "user", "content": ["x"]}, "messages.0.content"),
        ({"role": "user", "content": 3}, "messages.0.content"),
        ({"role": "user", "content": None, "refusal": "No."}, "messages.0.content"),
        ({"role": "assistant", "content": None, "refusal": None}, "messages.0.content"),
        ({"role": "assistant", "content": None, "audio": {"id": "audio_1"}}, "messages.0.audio"),
        ({"role": "assistant", "refusal": 3}, "messages.0.refusal"),
        ({"role": "function", "content": "x"}, "messages.0.name"),
        ({"role": "user", "content": "x", "function_call": {"name": "f", "arguments": "{}"}}, "messages.0.function_call"),
        (
            {
                "role": "assistant",
                "function_call": {"name": "f", "arguments": "{}"},
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "messages.0.function_call",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", PATHS)
async def test_messages_without_a_meaning_are_refused_in_jsons_words(path: str, message: dict[str, Any], param: str) -> None:
    async with running(a={}) as app:
        response = await _post(app, path, [message])
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    for word in ("str ", "list[", "Part", "literal"):
        assert word not in error["message"]


@pytest.mark.parametrize("content", ['{"sum": 5}', "", None])
async def test_the_legacy_history_of_a_call_is_that_of_a_tool(content: str | None) -> None:
    made = {"name": "add", "arguments": '{"a": 2}'}
    today = [
        HI,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": made}]},
        {"role": "tool", "tool_call_id": "c", "content": content or ""},
    ]
    legacy = [
        HI,
        {"role": "assistant", "content": None, "function_call": made},
        {"role": "function", "name": "add", "content": content},
    ]
    async with running(a={}) as app:
        prompts = [(await _post(app, f"{CHAT}/render", messages)).json()["prompt"] for messages in (today, legacy)]
        others = [await _post(app, path, legacy) for path in PATHS]
    assert prompts[0] == prompts[1]
    assert [response.status_code for response in others] == [200] * len(PATHS)


async def test_an_answer_in_sound_is_refused_and_one_in_text_is_not() -> None:
    async with running(a={}) as app:
        sound = await app.client.post(CHAT, json={"messages": [HI], "modalities": ["text", "audio"]})
        text = await app.client.post(CHAT, json={"messages": [HI], "modalities": ["text"]})
    assert (sound.status_code, sound.json()["error"]["param"], text.status_code) == (400, "modalities", 200)


@pytest.mark.parametrize(
    ("path", "field", "value", "message"),
    [
        ("/v1/completions", "prompt", {"a": 1}, "must be a string or a list of strings or a list of integers or a list of lists"),
        (CHAT, "stop", 3, "stop: must be a string or a list of strings"),
        ("/api/chat", "think", [], "think: must be true or false or a string"),
        ("/api/chat", "keep_alive", [], "keep_alive: must be a string or a number"),
        ("/api/chat", "format", 3, "format: must be a string or an object"),
    ],
)  # fmt: skip
async def test_a_field_of_several_forms_names_them_in_jsons_words(path: str, field: str, value: Any, message: str) -> None:
    async with running(a={}) as app:
        response = await app.client.post(path, json={"model": "phi4-mini", "messages": [HI], "prompt": "x", field: value})
    assert response.status_code == 400
    assert message in response.text
