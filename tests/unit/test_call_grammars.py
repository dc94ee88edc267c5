"""The grammars of Hermes' and Llama 3's calls, on vocabularies that have the markers as tokens and on one that spells them."""

import json
import random
from typing import Any

import jsonschema
import llguidance.numpy
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.base import CallSyntax
from serve_app.chat.formats.call_syntaxes import build_call_syntax
from serve_app.chat.grammar import GrammarCheck, wrap_tokenizer
from serve_app.chat.lark import to_lark
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import AnswerForm, Tool, ToolChoice
from serve_app.models.locate import EMBEDDED
from serve_app.types import Constraint, Grammar, JsonSchema, OneOf, Regex
from tests.chat import load_renamed, parse_pieces

RENAMED = {"<|tool_call|>": "<tool_call>", "<|/tool_call|>": "</tool_call>", "<|tool_response|>": "<|python_tag|>"}
PARAMETERS = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 10, "maximum": 99}, "s": {"$ref": "#/$defs/s"}},
    "required": ["x"],
    "$defs": {"s": {"enum": ["a", "bé"]}},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "f": PARAMETERS,
    "get.g-2": {"type": "object", "properties": {}, "additionalProperties": False},
}
MODELS = [(name, vocabulary) for name in ("hermes", "llama3") for vocabulary in ("tokens", "spelled")]
AUTO, REQUIRED = AnswerForm(), AnswerForm(tool_choice=ToolChoice.REQUIRED)
ANY_OBJECT = JsonSchema('{"type": "object"}')
ONE_CALL = AnswerForm(parallel=False)
FORMS = [
    AUTO,
    REQUIRED,
    ONE_CALL,
    AnswerForm(format=ANY_OBJECT),
    AnswerForm(format=JsonSchema('{"type": "array", "items": {"type": "integer"}}', lenient=True), parallel=False),
    AnswerForm(format=Regex("(.|\\n)*")),
    AnswerForm(format=OneOf(("hello", "{", "<"))),
    AnswerForm(format=Grammar('start: "{" /[a-z]/ "}"')),
]


class Model:
    """A syntax over one vocabulary."""

    def __init__(self, name: str, tokenizer: Tokenizer, guide: LLTokenizer) -> None:
        self.tokenizer, self.guide = tokenizer, guide
        syntax = build_call_syntax(name, tokenizer.vocabulary.added)
        assert syntax is not None
        self.syntax: CallSyntax = syntax

    def start(self, constraint: Constraint | None) -> LLMatcher:
        """Return a matcher at the beginning of an answer."""
        assert constraint is not None
        matcher = LLMatcher(self.guide, to_lark(constraint), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def accepts(self, constraint: Constraint | None, text: str) -> bool:
        """Return whether a whole answer fits, token by token."""
        matcher = self.start(constraint)
        ids = self.tokenizer.encode(text, special=True)
        return all(matcher.consume_token(token) for token in ids) and matcher.is_accepting()

    def begins(self, constraint: Constraint | None, text: str) -> bool:
        """Return whether an answer may begin with a text."""
        ids = self.tokenizer.encode(text, special=True)
        return self.start(constraint).validate_tokens(ids) == len(ids)

    def draw(self, constraint: Constraint | None, prefix: str, seed: int, steps: int = 400) -> tuple[str, bool]:
        """Return an answer of random tokens as its parser reads it, and whether it is complete."""
        vocabulary, draw = self.tokenizer.vocabulary, random.Random(seed)
        matcher = self.start(constraint)
        ids = self.tokenizer.encode(prefix, special=True)
        assert matcher.consume_tokens(ids), prefix
        bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary.size)
        every = np.arange(vocabulary.size)
        while not matcher.is_stopped() and len(ids) < steps:
            llguidance.numpy.fill_next_token_bitmask(matcher, bits, 0)
            allowed = every[bits[0][every >> 5] >> (every & 31) & 1 == 1]
            token = int(draw.choice(allowed))
            assert matcher.consume_token(token)
            ids.append(token)
        marks = {vocabulary.added[name]: mark for name, mark in self.syntax.markers.items()}
        raw = b"".join(
            marks[token].encode() if token in marks else vocabulary.raw(token) for token in ids if token not in vocabulary.stop_ids
        )
        return raw.decode("utf-8", "replace"), matcher.is_stopped()


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, LLTokenizer]]:
    loaded = {"spelled": Tokenizer.load(EMBEDDED), "tokens": load_renamed(tmp_path_factory.mktemp("renamed"), RENAMED)}
    return {name: (tokenizer, wrap_tokenizer(tokenizer)) for name, tokenizer in loaded.items()}


@pytest.fixture(params=MODELS, ids="-".join)
def model(request: pytest.FixtureRequest, vocabularies: dict[str, tuple[Tokenizer, LLTokenizer]]) -> Model:
    name, vocabulary = request.param
    return Model(name, *vocabularies[vocabulary])


def offer(*, strict: bool = False) -> tuple[Tool, ...]:
    return parse_tools([{"name": name, "parameters": schema, "strict": strict} for name, schema in SCHEMAS.items()])


def is_hermes(model: Model) -> bool:
    return "Hermes" in type(model.syntax).__name__


def write(model: Model, *calls: tuple[str, str]) -> str:
    """Return calls as the model's template writes them."""
    if is_hermes(model):
        return "\n".join(f'<tool_call>\n{{"name": "{name}", "arguments": {each}}}\n</tool_call>' for name, each in calls)
    return "; ".join(f'{{"name": "{name}", "parameters": {each}}}' for name, each in calls)


F, G = ("f", '{"x": 12, "s": "bé"}'), ("get.g-2", "{}")
WRONG = [("f", '{"x": 5}'), ("f", '{"y": 12}'), ("get.g-2", '{"a": 1}'), ("h", "{}")]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
async def test_every_grammar_compiles_and_lets_calls_through(model: Model, form: AnswerForm, strict: bool) -> None:
    constraint = model.syntax.build_constraint(offer(strict=strict), form)
    assert constraint is not None
    await GrammarCheck(model.tokenizer).require(constraint)
    assert model.accepts(constraint, write(model, F))
    assert model.accepts(constraint, write(model, F, G)) is form.parallel or form.format == Regex("(.|\\n)*")
    assert constraint.optional == (form is AUTO and not strict)


def test_without_tools_only_the_form_counts(model: Model) -> None:
    assert model.syntax.build_constraint((), AUTO) is None
    assert model.syntax.build_constraint((), AnswerForm(format=ANY_OBJECT)) == ANY_OBJECT


@pytest.mark.parametrize("form", [AUTO, REQUIRED, ONE_CALL], ids=["auto", "required", "one"])
def test_calls_fit_their_tools(model: Model, form: AnswerForm) -> None:
    constraint = model.syntax.build_constraint(offer(strict=True), form)
    for wrong in WRONG:
        said = write(model, wrong)
        if wrong[0] == "h" and not is_hermes(model) and form is not REQUIRED:
            assert model.accepts(constraint, said), "bare JSON that calls no offered tool is an answer"
        else:
            assert not model.accepts(constraint, said)


def test_a_named_tool_is_called(model: Model) -> None:
    form = AnswerForm(tool_choice=ToolChoice.REQUIRED, callable=("get.g-2",))
    constraint = model.syntax.build_constraint(offer(), form)
    assert model.accepts(constraint, write(model, G))
    assert not model.begins(constraint, write(model, F))
    assert not model.begins(constraint, "Hello")


TEXTS = [
    "Hello.\n",
    "a < b, {x} and [1]",
    '{"city": "Paris"}',
    '{"name": "h", "parameters": {"y": [1]}}',
    '{"name": "f"}',
    '[{"name": "f"}]',
    "<tool_cal",
    '{"name": "f", "pa',
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("strict", [False, True])
def test_text_and_json_that_are_no_calls_stay_possible(model: Model, text: str, strict: bool) -> None:
    for form in (AUTO, ONE_CALL):
        assert model.accepts(model.syntax.build_constraint(offer(strict=strict), form), text)


@pytest.mark.parametrize("text", ['{"city": "Paris"}', '{"name": "h"}', '{"name": "f", "a": 1}', "{}"])
def test_an_answer_in_json_stays_possible(model: Model, text: str) -> None:
    for parallel in (False, True):
        constraint = model.syntax.build_constraint(offer(strict=True), AnswerForm(format=ANY_OBJECT, parallel=parallel))
        assert model.accepts(constraint, text)
        assert not model.begins(constraint, "Hello")


def test_text_may_stand_before_marked_calls(model: Model) -> None:
    begins = "<tool_call>" if is_hermes(model) else "<|python_tag|>"
    said = f"Let me look.\n{'' if is_hermes(model) else begins}{write(model, G)}"
    for form in (AUTO, ONE_CALL):
        constraint = model.syntax.build_constraint(offer(), form)
        assert model.accepts(constraint, said) == bool(model.syntax.markers or is_hermes(model))
        assert not model.accepts(constraint, f"See {begins} there")


def test_a_list_of_calls_in_a_block_is_accepted(model: Model) -> None:
    if is_hermes(model):
        constraint = model.syntax.build_constraint(offer(), AUTO)
        calls = ",\n".join(f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in (F, G))
        assert model.accepts(constraint, f"<tool_call>[\n{calls}\n]</tool_call>")


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_forced_calls_can_be_completed_and_are_calls(model: Model, parallel: bool, strict: bool) -> None:
    tools = offer(strict=strict)
    constraint = model.syntax.build_constraint(tools, AnswerForm(tool_choice=ToolChoice.REQUIRED, parallel=parallel))
    for seed in range(8):
        said, complete = model.draw(constraint, "", seed, steps=3000)
        assert complete
        text, calls = parse_pieces(model.syntax.build_call_parser(tools, begun=False), [said])
        assert not text
        assert calls
        assert parallel or len(calls) == 1
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])


PREFIXES = ["", "{", '{"name": "f", ', '{"parameters": ', "[", "\n", '{"name": "f", "parameters": ', '{"type": "function", ']


@pytest.mark.parametrize("form", [AUTO, ONE_CALL], ids=["auto", "one"])
def test_calls_of_strict_tools_fit_whatever_the_model_draws(model: Model, form: AnswerForm) -> None:
    """Soundness of the promise: each complete call that the parser finds fits its schema."""
    tools = offer(strict=True)
    constraint = model.syntax.build_constraint(tools, form)
    begins = ["<tool_call>", "Well.\n<tool_call>[", '<tool_call>{"name": "f'] if is_hermes(model) else PREFIXES
    begins = [*begins, "<|python_tag|>"] if "<|python_tag|>" in model.syntax.markers else begins
    found = 0
    for seed, prefix in enumerate(begins * 3):
        said, complete = model.draw(constraint, prefix, seed)
        for name, arguments in parse_pieces(model.syntax.build_call_parser(tools, begun=False), [said])[1] if complete else ():
            jsonschema.validate(json.loads(arguments), SCHEMAS[name])
            found += 1
    assert found


async def test_many_tools_are_guided(model: Model) -> None:
    parameters = {"properties": {f"p{at}": {"type": "string"} for at in range(4)}}
    tools = parse_tools([{"name": f"f{at}", "parameters": parameters} for at in range(128)])
    for form in (AUTO, AnswerForm(format=ANY_OBJECT)):
        constraint = model.syntax.build_constraint(tools, form)
        assert constraint is not None
        assert await GrammarCheck(model.tokenizer).passes(constraint)


REFERRING = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "properties": {"tree": {"$ref": "#"}, 'größe "q"': {"$ref": "#/$defs/s"}},
    "$defs": {"s": {"enum": [1]}},
}


async def test_references_move_with_a_schema(model: Model) -> None:
    tools = parse_tools([{"name": "f", "parameters": REFERRING, "strict": True}])
    constraint = model.syntax.build_constraint(tools, AnswerForm(format=OneOf(("{",)) if is_hermes(model) else ANY_OBJECT))
    assert constraint is not None
    await GrammarCheck(model.tokenizer).require(constraint)
    only_calls = model.syntax.build_constraint(tools, AnswerForm(format=JsonSchema('{"type": "integer"}')))
    assert model.accepts(only_calls, write(model, ("f", '{"tree": {"tree": {}, "größe \\"q\\"": 1}}')))
    assert not model.accepts(only_calls, write(model, ("f", '{"tree": {"größe \\"q\\"": 2}}')))
