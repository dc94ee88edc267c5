"""The official OpenAI client against the running application, on every real group."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai.types import CompletionUsage

from tests.live import GROUPS, LiveApp

MODEL = "phi-4-mini-instruct"


def _hi(text: str = "What is 12 + 30?") -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _counts(usage: CompletionUsage | None) -> tuple[int, int, int]:
    """The counts that do not depend on what was asked before, as those of cached tokens do."""
    assert usage is not None
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


@pytest.mark.parametrize("group", GROUPS)
def test_chat_whole_and_streamed_agree(app: LiveApp, group: str) -> None:
    wish = {"model": MODEL, "messages": _hi(), "max_tokens": 24, "temperature": 0, "extra_headers": {"x-engine": group}}
    raw = app.client().chat.completions.with_raw_response.create(**wish)
    whole = raw.parse()
    chunks = list(app.client().chat.completions.create(**wish, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert _counts(chunks[-1].usage) == _counts(whole.usage)
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert raw.headers["x-engine"] == group
    assert raw.headers["x-route-reason"] == "requested"
    assert raw.headers["x-attempts"] == "1"
    assert "," not in raw.headers["x-request-id"]


@pytest.mark.parametrize("group", GROUPS)
def test_top_p_0_is_greedy_and_negative_seeds_are_seeds(app: LiveApp, group: str) -> None:
    client = app.client()

    def ask(**wish: float) -> str | None:
        answer = client.chat.completions.create(
            model="phi-4-mini",
            messages=_hi(),
            max_tokens=24,
            extra_headers={"x-engine": group},
            **wish,  # type: ignore[call-overload]
        )
        text: str | None = answer.choices[0].message.content
        return text

    assert ask(temperature=1.5, top_p=0) == ask(temperature=0)
    for seed in (-1, -(2**63)):
        assert ask(temperature=1.5, seed=seed) == ask(temperature=1.5, seed=seed)


def test_greedy_text_is_the_same_on_every_group(app: LiveApp) -> None:
    def ask(name: str) -> str:
        answer = app.client().completions.create(
            model=MODEL, prompt="All cats are mammals.", max_tokens=40, temperature=0, extra_headers={"x-engine": name}
        )
        return str(answer.choices[0].text)

    assert len({ask(group) for group in GROUPS}) == 1


@pytest.mark.parametrize("group", GROUPS)
def test_a_prompt_over_the_tutorials_2048_tokens_is_read_to_its_end(app: LiveApp, group: str) -> None:
    filler = "The bridge is near the river. " * 420
    body = {"model": "phi-4-mini", "messages": _hi(filler + "Who are you?"), "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{app.url}/v1/chat/completions", json=body, headers={"x-engine": group}, timeout=60).json()
    assert 2500 < answer["usage"]["prompt_tokens"] < 4096
    shorter = httpx.post(
        f"{app.url}/v1/chat/completions", json=body | {"messages": _hi(filler + "Hello!")}, headers={"x-engine": group}, timeout=60
    ).json()
    assert answer["choices"][0]["message"]["content"] != shorter["choices"][0]["message"]["content"]


@pytest.mark.parametrize("group", GROUPS)
def test_completions_take_text_lists_and_token_ids(app: LiveApp, group: str) -> None:
    create = app.client().completions.create
    wish = {
        "model": MODEL,
        "max_tokens": 4,
        "temperature": 0,
        "extra_headers": {"x-engine": group},
        "extra_body": {"ignore_eos": True},
    }
    listed = create(prompt=["Hello", "Two cats"], n=2, **wish)
    assert [choice.index for choice in listed.choices] == [0, 1, 2, 3]
    assert listed.usage is not None
    assert listed.usage.completion_tokens == 16
    ids = create(prompt=[20, 30, 40], logprobs=2, **wish)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3
    assert ids.choices[0].logprobs is not None
    assert len(ids.choices[0].logprobs.tokens or []) == 4


def test_models(app: LiveApp) -> None:
    names = [model.id for model in app.client().models.list()]
    assert names[0] == MODEL
    assert app.client().models.retrieve("microsoft/Phi-4-mini-instruct").id == "microsoft/Phi-4-mini-instruct"
    with pytest.raises(openai.NotFoundError):
        app.client().models.retrieve("nope")


@pytest.mark.parametrize("group", GROUPS)
def test_32_concurrent_streams_finish_with_exact_usage(app: LiveApp, group: str) -> None:
    client = app.client()

    def one(number: int) -> tuple[int, int, int]:
        wanted = 16 + number
        stream = client.chat.completions.create(
            model=MODEL, messages=_hi(f"Number {number}"), max_tokens=wanted, stream=True, stream_options={"include_usage": True},
            extra_headers={"x-engine": group}, extra_body={"ignore_eos": True}, logprobs=True,
        )  # fmt: skip
        told = tokens = 0
        for chunk in stream:
            if chunk.usage:
                told = chunk.usage.completion_tokens
            if chunk.choices and chunk.choices[0].logprobs:
                tokens += len(chunk.choices[0].logprobs.content or [])
        return wanted, told, tokens

    with ThreadPoolExecutor(32) as pool:
        for wanted, told, tokens in pool.map(one, range(32)):
            assert wanted == told == tokens


def test_tasks_are_routed_as_configured(app: LiveApp) -> None:
    prefer = app.config["applications"][0]["args"]["routing"]["prefer"]
    for text, task in (
        ("Write a Python function that adds two numbers.", "coding"),
        ("What is 3 + 4?", "math"),
        ("Hello!", "general"),
    ):
        answer = httpx.post(
            f"{app.url}/v1/chat/completions", json={"model": "phi-4-mini", "messages": _hi(text), "max_tokens": 2}, timeout=60
        )
        assert (answer.headers["x-task"], answer.headers["x-engine"]) == (task, prefer[task][0])
        assert answer.headers["x-route-reason"] == "preferred"


def test_the_reasoning_api_generates_until_the_end(app: LiveApp) -> None:
    body = {"prompt": "What is 12 + 30?", "task_type": "math", "max_length": 64, "temperature": 0.0}
    answer = httpx.post(f"{app.url}/reasoning", json=body, timeout=60)
    shown = answer.json()
    assert answer.status_code == 200
    assert shown["usage"]["completion_tokens"] > 1
    assert shown["engine"] == answer.headers["x-engine"]
    assert httpx.post(f"{app.url}/reasoning", json=body, timeout=60).json()["generated_text"] == shown["generated_text"]


def test_the_first_token_arrives_before_the_second_is_generated(app: LiveApp) -> None:
    import time

    times = []
    stream = app.client().chat.completions.create(model=MODEL, messages=_hi(), stream=True, extra_headers={"x-engine": "slow"})
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            times.append(time.monotonic())
    # The group makes a token every 0.5 s; had the first waited for the second, they would arrive together.
    assert times[1] - times[0] > 0.25
