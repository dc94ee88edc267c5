"""Values refuse what would hurt an engine."""

import math
from dataclasses import replace

import pytest

from serve_app.conversation import ChoiceEnd, Completion, TextDelta, fold, total_usage
from serve_app.types import FinishReason, Grammar, InvalidValue, JsonSchema, OneOf, Sampling, TokenRequest, Usage


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", True),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.0),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", math.nan),
        ("logit_bias", {5: math.inf}),
        ("logit_bias", {5.0: 1.0}),
        ("seed", 2**70),
        ("seed", -(2**63) - 1),
        ("seed", 2**63),
        ("seed", 1.0),
        ("max_tokens", 0),
        ("max_tokens", 10**12),
        ("max_tokens", 3.0),
        ("max_tokens", True),
        ("min_tokens", -1),
        ("stop_token_ids", (1.5,)),
        ("logprobs", 21),
    ],
)
def test_sampling_refuses_what_is_out_of_range(field: str, value: object) -> None:
    with pytest.raises(InvalidValue) as refused:
        Sampling(**{field: value})  # type: ignore[arg-type]
    assert refused.value.field == field


@pytest.mark.parametrize(("given", "kept"), [(-1, 2**63 - 1), (-2, 2**63 - 2), (-(2**63), 0), (0, 0), (2**63 - 1, 2**63 - 1)])
def test_every_seed_that_clients_may_send_is_one_that_every_engine_takes(given: int, kept: int) -> None:
    sampling = Sampling(seed=given)
    assert sampling.seed == kept
    assert replace(sampling, max_tokens=3).seed == kept


@pytest.mark.parametrize(
    ("sampling", "greedy"),
    [
        (Sampling(temperature=0), True),
        (Sampling(top_p=0), True),
        (Sampling(top_p=5e-324), True),
        (Sampling(top_p=0.001), False),
        (Sampling(), False),
    ],
)
def test_nothing_is_drawn_at_temperature_0_and_at_top_p_0(sampling: Sampling, greedy: bool) -> None:
    assert sampling.greedy is greedy


def test_min_tokens_must_not_exceed_max_tokens() -> None:
    with pytest.raises(InvalidValue, match="min_tokens"):
        Sampling(max_tokens=4, min_tokens=5)


@pytest.mark.parametrize("prompt", [(), (1.5,), (True,), (-1,), ("a",)])
def test_a_token_request_holds_plain_token_ids_only(prompt: tuple[object, ...]) -> None:
    with pytest.raises(InvalidValue):
        TokenRequest(request_id="r", prompt=prompt, sampling=Sampling())  # type: ignore[arg-type]


def _end(choice: int, prompt: int, completion: int) -> ChoiceEnd:
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
    return ChoiceEnd(reason=FinishReason.STOP, usage=usage, choice=choice)


async def test_fold_collects_choices_in_order() -> None:
    async def events():  # type: ignore[no-untyped-def]
        yield TextDelta(text="b", choice=1)
        yield TextDelta(text="a", choice=0)
        yield _end(1, 3, 1)
        yield TextDelta(text="c", choice=0)
        yield _end(0, 3, 2)

    completion: Completion = await fold(events())
    assert [choice.text for choice in completion.choices] == ["ac", "b"]


def test_usage_counts_each_prompt_once() -> None:
    ends = [_end(0, 3, 5), _end(1, 3, 7), _end(2, 4, 1), _end(3, 4, 1)]
    assert total_usage(ends, n=2) == Usage(prompt_tokens=7, completion_tokens=14)


def test_a_choice_has_options() -> None:
    with pytest.raises(InvalidValue, match="choice"):
        OneOf(())


@pytest.mark.parametrize("schema", ["", "{", "[]", "true", "1", "nonsense"])
def test_a_schema_is_a_json_object(schema: str) -> None:
    with pytest.raises(InvalidValue, match="schema"):
        JsonSchema(schema)


@pytest.mark.parametrize("lark", ["", "root ::= ", 'begin: "a"', "restart: x"])
def test_a_grammar_has_a_start(lark: str) -> None:
    with pytest.raises(InvalidValue, match="start"):
        Grammar(lark)
