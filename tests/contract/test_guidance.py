"""Constrained decoding on every engine that has it: whatever the sampler draws, the answer is what the constraint allows."""

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tokenizers import Tokenizer

from serve_app.chat.answer_parser import CallPart
from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.phi4.call_grammar import build_calls_or_answer, build_forced_calls, build_guided_calls
from serve_app.chat.formats.phi4.calls import Phi4CallParser
from serve_app.conversation import Tool
from serve_app.engines.base import Engine
from serve_app.errors import InvalidRequest
from serve_app.models.locate import EMBEDDED
from serve_app.types import Constraint, FinishReason, Grammar, JsonSchema, OneOf, Regex, TokenRequest
from tests.chat import marked
from tests.contract.play import ask, play, prompt
from tests.schemas import random_object
from training.embedded.conversation import Message
from training.embedded.tokenizer import encode_prompt

TOKENIZER = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))


def constrained(constraint: Constraint, **sampling: Any) -> TokenRequest:
    plain = ask(prompt(12), **{"temperature": 1.0, "seed": 1, "max_tokens": 1500, "stop_token_ids": (0, 1)} | sampling)
    return TokenRequest(request_id=plain.request_id, prompt=plain.prompt, sampling=plain.sampling, constraint=constraint)


def text(ids: tuple[int, ...]) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=False))


@pytest.mark.slow
async def test_100_random_schemas_are_kept_all_at_once(model_engine: Engine) -> None:
    schemas = [random_object(random.Random(seed)) for seed in range(100)]
    gate = asyncio.Semaphore(8)

    async def one(number: int, schema: dict[str, Any]) -> tuple[str, FinishReason]:
        async with gate:
            ids, end, _ = await play(model_engine, constrained(JsonSchema(json.dumps(schema)), seed=number))
        assert len(ids) <= end.usage.completion_tokens <= len(ids) + 1
        return text(ids), end.reason

    for schema, (answer, reason) in zip(schemas, await asyncio.gather(*map(one, range(100), schemas)), strict=True):
        assert reason is FinishReason.STOP
        jsonschema.validate(json.loads(answer), schema)


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (Regex(r"[a-z]{3}-[0-9]{2,4}"), r"[a-z]{3}-[0-9]{2,4}"),
        (OneOf(("yes", "no", "may be")), "yes|no|may be"),
        (OneOf(('a "quoted" one\n',)), 'a "quoted" one\n'),
        (OneOf(("größer", "日本 🐱")), "größer|日本 🐱"),
        (JsonSchema('{"enum": ["größer", "\\u65e5 \\ud83d\\udc31"]}'), '"größer"|"日 🐱"'),
        (Grammar('start: "é\\u00e9" ("\\\\" "x")?'), r"éé(\\x)?"),
        (Grammar('start: "x" ("," "y")~2'), "x,y,y"),
        (Grammar('start: <|tool_call|> "[]" <|/tool_call|>'), re.escape("<|tool_call|>[]<|/tool_call|>")),
    ],
    ids=str,
)
async def test_other_constraints(model_engine: Engine, constraint: Constraint, pattern: str) -> None:
    for seed in range(5):
        ids, end, _ = await play(model_engine, constrained(constraint, seed=seed))
        assert re.fullmatch(pattern, text(ids))
        assert end.reason is FinishReason.STOP


async def test_any_json_at_temperature_0(onnx_engine: Engine) -> None:
    ids, end, _ = await play(onnx_engine, constrained(JsonSchema('{"type": "object"}'), temperature=0.0, max_tokens=200))
    if end.reason is FinishReason.STOP:
        json.loads(text(ids))
    assert text(ids).startswith("{")


async def test_tokens_without_a_choice_are_taken_at_once_and_change_nothing(onnx_engine: Engine) -> None:
    names = ["first_long_property_name", "second_long_property_name"]
    properties = {name: {"type": "integer", "maximum": 99, "minimum": 10} for name in names}
    schema = JsonSchema(json.dumps({"type": "object", "properties": properties, "required": names, "additionalProperties": False}))
    before = onnx_engine.load().counters["forced_tokens"]
    forced, _, _ = await play(onnx_engine, constrained(schema, temperature=0.0))
    assert onnx_engine.load().counters["forced_tokens"] - before > 10
    one_by_one, _, logprobs = await play(onnx_engine, constrained(schema, temperature=0.0, logprobs=0))
    assert text(forced) == text(one_by_one)
    assert len(logprobs) == len(one_by_one)


async def test_limits_hold_under_a_constraint(onnx_engine: Engine) -> None:
    for limit in range(1, 12):
        ids, end, _ = await play(onnx_engine, constrained(Regex("(abcdefgh){40}"), max_tokens=limit))
        assert len(ids) == limit
        assert end.reason is FinishReason.LENGTH
    _, end, _ = await play(onnx_engine, constrained(OneOf(("yes",)), max_tokens=50, min_tokens=20))
    assert end.reason is FinishReason.STOP


async def test_a_stop_token_ends_a_constrained_answer_early(model_engine: Engine) -> None:
    constraint = Regex("(abcd,){20}")
    whole, _, _ = await play(model_engine, constrained(constraint))
    stop = whole[3]
    ids, end, _ = await play(model_engine, constrained(constraint, stop_token_ids=(0, 1, stop)))
    assert ids == whole[: whole.index(stop)]
    assert (end.reason, end.usage.completion_tokens) == (FinishReason.STOP, len(ids) + 1)


async def test_neighbours_are_not_disturbed(onnx_engine: Engine) -> None:
    alone = (await play(onnx_engine, ask(prompt(40, seed=8), max_tokens=60)))[0]
    schema = JsonSchema(json.dumps(random_object(random.Random(7))))
    answers = await asyncio.gather(
        play(onnx_engine, ask(prompt(40, seed=8), max_tokens=60)),
        *(play(onnx_engine, constrained(schema, seed=i)) for i in range(4)),
    )
    assert answers[0][0] == alone


@pytest.mark.slow
async def test_calls_of_50_random_tools_are_forced(model_engine: Engine) -> None:
    """`required`: a call of one of the tools, its arguments as the tool's schema wants them, in the model's own form."""

    async def one(seed: int) -> None:
        draw = random.Random(seed)
        schemas = {f"tool_{at}": random_object(draw) for at in range(draw.randrange(1, 4))}
        tools = [Tool(name=name, function="{}", parameters=json.dumps(schema)) for name, schema in schemas.items()]
        ids, end, _ = await play(
            model_engine, constrained(build_forced_calls(tools, parallel=seed % 2 == 0), seed=seed, max_tokens=3000)
        )
        assert end.reason is FinishReason.STOP
        parser = Phi4CallParser(schemas)
        parts = parser.push(marked(text(ids))) + parser.finish()
        assert parts
        assert all(isinstance(part, CallPart) and part.name for part in parts)
        for call in parts:
            assert isinstance(call, CallPart)
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])
        assert len(parts) == 1 or seed % 2 == 0

    for start in range(0, 50, 8):
        await asyncio.gather(*(one(seed) for seed in range(start, min(start + 8, 50))))


@pytest.mark.parametrize(
    ("answer", "pattern"),
    [(Regex("[0-9]{3}"), "[0-9]{3}"), (OneOf(("a", "b")), "[ab]"), (JsonSchema('{"type": "boolean"}'), "true|false")],
)
async def test_an_answer_or_calls(model_engine: Engine, answer: Constraint, pattern: str) -> None:
    tool = Tool(name="f", function="{}", parameters='{"type": "object", "properties": {}, "additionalProperties": false}')
    grammar = build_calls_or_answer(answer, [tool], parallel=False)
    for seed in range(6):
        said = text((await play(model_engine, constrained(grammar, seed=seed)))[0])
        parser = Phi4CallParser(("f",))
        (part,) = parser.push(marked(said)) + parser.finish()
        assert part == CallPart(index=0, name="f", arguments="{}") or re.fullmatch(pattern, str(part))


FUNCTIONS: list[dict[str, Any]] = [
    {
        "name": "set_timer",
        "description": "Set a timer that goes off after some minutes",
        "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
    },
    {
        "name": "calculate_circle_area",
        "description": "Calculate the area of a circle given its radius",
        "parameters": {"type": "object", "properties": {"radius": {"type": "number"}}, "required": ["radius"]},
    },
]


def chat(question: str, constraint: Constraint | None, **sampling: Any) -> TokenRequest:
    listed = json.dumps(FUNCTIONS)
    turns = (Message(role="system", content="", tools=listed), Message(role="user", content=question))
    plain = ask(tuple(encode_prompt(TOKENIZER, turns)), **{"max_tokens": 200, "stop_token_ids": (0, 1)} | sampling)
    return TokenRequest(request_id=plain.request_id, prompt=plain.prompt, sampling=plain.sampling, constraint=constraint)


@pytest.mark.parametrize(
    ("question", "called"),
    [
        ("What is the capital of France?", ""),
        ("Set a timer for 12 minutes.", "set_timer"),
        ("Calculate the area of a circle with radius 5 units", "calculate_circle_area"),
    ],
)
async def test_guided_calls_leave_a_good_answer_as_it_is(model_engine: Engine, question: str, called: str) -> None:
    """Text ends where the model ends it, and not at the token that stands for the end in a vocabulary."""
    free, (guided, end, _) = (
        await play(model_engine, chat(question, None)),
        await play(model_engine, chat(question, build_guided_calls(parse_tools(FUNCTIONS)))),
    )
    assert (guided, end.reason) == (free[0], FinishReason.STOP)
    assert (f'"name": "{called}"' in text(guided)) == bool(called)


async def test_guided_calls_name_offered_tools_and_have_their_arguments(model_engine: Engine) -> None:
    """The model wants other tokens by a high temperature; what it says of a call fits all the same."""
    guide = build_guided_calls(parse_tools(FUNCTIONS))
    requests = [chat("Set a timer for 12 minutes.", guide, temperature=1.6, seed=seed, max_tokens=150) for seed in range(8)]
    calls = 0
    for ids, end, _ in await asyncio.gather(*(play(model_engine, request) for request in requests)):
        parser = Phi4CallParser([function["name"] for function in FUNCTIONS])
        for part in parser.push(marked(text(ids))) + parser.finish():
            if isinstance(part, CallPart) and end.reason is FinishReason.STOP:
                calls += 1
                schema = next(each["parameters"] for each in FUNCTIONS if each["name"] == part.name)
                jsonschema.validate(json.loads(part.arguments), schema)
    assert calls


HOSTILE: list[Constraint] = [
    JsonSchema('{"type": "foo"}'),
    JsonSchema('{"$ref": "#/$defs/missing"}'),
    JsonSchema('{"type": "array", "uniqueItems": true}'),
    JsonSchema('{"type": "string", "minLength": 9, "maxLength": 2}'),
    Regex("("),
    Regex("(?=a)b"),
    Grammar("start: missing"),
    Grammar("start: <|no_such_token|>"),
]


@pytest.mark.parametrize("constraint", HOSTILE, ids=str)
async def test_what_cannot_be_followed_is_refused_and_stalls_nobody(model_engine: Engine, constraint: Constraint) -> None:
    neighbour = asyncio.create_task(play(model_engine, ask(prompt(9, seed=2), max_tokens=30)))
    with pytest.raises(InvalidRequest):
        await asyncio.wait_for(play(model_engine, constrained(constraint)), 10)
    assert (await neighbour)[1].usage.completion_tokens


BOMBS = [
    "(((((a{1,100}){1,100}){1,100}){1,100}){1,100})",
    "((([a-z]{1,100} ){1,100}){1,100}){1,100}",
    "([a-f]{1,300}x){1,300}|([a-f]{1,299}y){1,299}",
    "(abc|def|ghi|[0-9a-f]{8})" * 2000,
]
"""Patterns that stand for more states than any machine has; they are worked out only as far as an answer goes."""


@pytest.mark.parametrize("pattern", BOMBS, ids=lambda pattern: pattern[:30])
async def test_patterns_of_endless_states_stall_nobody(model_engine: Engine, pattern: str) -> None:
    neighbour = asyncio.create_task(play(model_engine, ask(prompt(9, seed=2), max_tokens=30)))
    request = constrained(Regex(pattern), max_tokens=8)
    try:
        async with asyncio.timeout(10):
            ids, _, _ = await play(model_engine, request)
        assert re.fullmatch("[a-z0-9 ]+", text(ids))  # each pattern begins so, for far more than eight tokens
    except InvalidRequest:
        pass  # llguidance has a limit of its own
    assert (await asyncio.wait_for(neighbour, 10))[1].usage.completion_tokens


async def test_an_optional_constraint_that_does_not_compile_leaves_the_answer_free(model_engine: Engine) -> None:
    wrong = Grammar("start: missing", optional=True)
    question = "What is the capital of France?"
    free = await play(model_engine, chat(question, None))
    assert (await play(model_engine, chat(question, wrong)))[0] == free[0]


async def test_compiled_constraints_are_kept(onnx_engine: Engine, model_dir: Path) -> None:
    schema = JsonSchema(json.dumps(random_object(random.Random(3))))
    guidance = onnx_engine._guidance  # type: ignore[attr-defined]
    await guidance.start(schema)
    compiled = guidance._compiled[schema]
    await guidance.start(schema)
    assert guidance._compiled[schema] is compiled


@pytest.mark.parametrize(
    "pattern", ["(a|aa|aaa){900,5000}b", "(a|aa|aaa){1,5000}b", pytest.param("(x+x+)+y{3000}", marks=pytest.mark.slow)]
)
async def test_what_grows_too_large_to_follow_is_refused_and_no_short_answer(model_engine: Engine, pattern: str) -> None:
    """It compiles, for every engine; following it is what takes too much, which is the request's fault and not the engine's."""
    try:
        ids, end, _ = await asyncio.wait_for(play(model_engine, constrained(Regex(pattern))), 120)
    except InvalidRequest:
        pass
    else:
        assert end.reason is FinishReason.LENGTH or re.fullmatch(pattern.replace("(x+x+)+", "x{2,}"), text(ids))
    assert (await play(model_engine, constrained(OneOf(("yes", "no")))))[1].reason is FinishReason.STOP
