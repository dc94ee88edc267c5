"""The faults of the tutorial's reasoning server, one test each. Engines that need a model are held to the same in tests/serve."""

import pytest

from serve_app.conversation import ChoiceEnd, CompletedChoice, Completion
from serve_app.dialects.base import AnswerContext, parse
from serve_app.dialects.reasoning.codec import ReasoningCodec
from serve_app.record import RequestRecord
from serve_app.types import FinishReason, Usage
from tests.unit.app import running

BODY = {"prompt": "A train travels 240 km in 3 hours. How fast is it?", "task_type": "math"}


async def test_the_answer_has_the_tutorials_fields() -> None:
    async with running(a={"text": "80 km/h"}) as app:
        body = (await app.client.post("/reasoning", json=BODY)).json()
    assert body["generated_text"] == "80 km/h"
    assert body["task_type"] == "math"
    assert body["model"] == "phi-4-mini-instruct"
    assert body["inference_time"] > 0
    assert body["inference_time"] == round(body["inference_time"], 3)
    assert body["engine"] == "a"
    assert body["usage"]["completion_tokens"] > 1
    assert body["tokens_per_second"] > 0
    assert body["tokens_per_second"] == round(body["tokens_per_second"], 1)


@pytest.mark.parametrize(
    ("seconds", "shown", "rate"), [(0.1664999, 0.166, 24.0), (2.0, 2.0, 2.0), (0.0, 0.0, 4000.0), (1e-9, 0.0, 4000.0)]
)
def test_times_are_rounded_and_rates_finite(seconds: float, shown: float, rate: float) -> None:
    body = parse(ReasoningCodec.body, b'{"prompt": "x"}')
    request, stream = ReasoningCodec().decode(body, "r")
    call = AnswerContext(
        request=request,
        record=RequestRecord(request_id="r", model="m"),
        body=body,
        stream=stream,
        created=0,
        elapsed=lambda: seconds,
    )
    end = ChoiceEnd(reason=FinishReason.STOP, usage=Usage(prompt_tokens=1, completion_tokens=4))
    completion = Completion(choices=(CompletedChoice(text="", logprobs=(), end=end),))
    told = ReasoningCodec().encode(completion, call)
    assert (told["inference_time"], told["tokens_per_second"]) == (shown, rate)


async def test_generation_goes_on_until_it_ends_not_for_one_pass() -> None:
    async with running(a={"text": "one two three four five"}) as app:
        body = (await app.client.post("/reasoning", json=BODY)).json()
    assert body["generated_text"] == "one two three four five"
    assert body["finish_reason"] == "stop"


async def test_temperature_and_max_length_are_honoured_with_the_tutorials_defaults() -> None:
    async with running(a={}) as app:
        await app.client.post("/reasoning", json=BODY)
        await app.client.post("/reasoning", json=BODY | {"temperature": 0.9, "max_length": 7})
        default, given = (request.sampling for request in app.engines["a"].requests)
    assert (default.temperature, default.max_tokens) == (0.3, 200)
    assert (given.temperature, given.max_tokens) == (0.9, 7)


async def test_the_chat_template_is_applied_and_the_task_shapes_the_prompt() -> None:
    async with running(a={}) as app:
        for task in ("math", "coding", "reasoning"):
            await app.client.post("/reasoning", json=BODY | {"task_type": task})
        tokenizer = app.gateway.catalog.resolve(None).model.tokenizer
        prompts = [request.prompt for request in app.engines["a"].requests]
    assert all(prompt[0] == tokenizer.token_id("<|system|>") for prompt in prompts)
    assert all(prompt[-1] == tokenizer.token_id("<|assistant|>") for prompt in prompts)
    assert len(set(prompts)) == 3


async def test_long_prompts_are_refused_not_cut() -> None:
    async with running(a={"max_model_len": 2048}) as app:
        response = await app.client.post("/reasoning", json={"prompt": "number 7 " * 3000})
        assert not app.engines["a"].requests
    assert response.status_code == 400
    assert response.json()["code"] == "context_length_exceeded"


async def test_exceptions_are_not_http_200() -> None:
    async with running(a={"fault": "fail_first"}) as app:
        response = await app.client.post("/reasoning", json=BODY)
    assert response.status_code == 500
    assert set(response.json()) == {"error", "code", "param", "request_id"}


async def test_health_is_not_200_while_no_model_is_loaded() -> None:
    async with running(a={"absent": True}) as app:
        response = await app.client.get("/health")
        refused = await app.client.post("/reasoning", json=BODY)
    assert response.status_code == 503
    assert response.json()["status"] == "not_ready"
    assert (refused.status_code, refused.json()["code"]) == (503, "no_engine_ready")


async def test_errors_name_the_tutorials_fields() -> None:
    async with running(a={}) as app:
        bad = {field: value for field, value in (("max_length", 0), ("temperature", -1), ("task_type", "poetry"), ("prompt", ""))}
        for field, value in bad.items():
            response = await app.client.post("/reasoning", json=BODY | {field: value})
            assert (response.status_code, response.json()["param"]) == (400, field)


async def test_root_describes_the_service() -> None:
    async with running(a={}) as app:
        body = (await app.client.get("/")).json()
    assert {"name", "model", "endpoints", "capabilities"} <= set(body)
