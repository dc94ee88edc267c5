"""Every engine follows the grammars of the other syntaxes of calls; the embedded model's vocabulary spells their markers."""

import json

import jsonschema
import pytest

from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.call_syntaxes import build_call_syntax
from serve_app.conversation import AnswerForm, ToolChoice
from serve_app.engines.base import Engine
from serve_app.types import FinishReason, JsonSchema, Regex
from tests.chat import parse_pieces
from tests.contract.play import play
from tests.contract.test_guidance import chat, constrained, text

SCHEMA = {"type": "object", "properties": {"x": {"enum": [1, "é"]}}, "required": ["x"], "additionalProperties": False}
TOOLS = parse_tools([{"name": "f", "parameters": SCHEMA, "strict": True}])
FORCED = AnswerForm(tool_choice=ToolChoice.REQUIRED)


@pytest.mark.parametrize("name", ["hermes", "llama3"])
@pytest.mark.parametrize(
    "form", [FORCED, AnswerForm(format=Regex("[0-9]{3}")), AnswerForm(format=JsonSchema('{"type": "boolean"}'))], ids=str
)
async def test_calls_are_forced_or_an_answer_is(model_engine: Engine, name: str, form: AnswerForm) -> None:
    syntax = build_call_syntax(name, ())
    assert syntax is not None
    constraint = syntax.build_constraint(TOOLS, form)
    assert constraint is not None
    for seed in range(3):
        ids, end, _ = await play(model_engine, constrained(constraint, seed=seed))
        assert end.reason is FinishReason.STOP
        said, calls = parse_pieces(syntax.build_call_parser(TOOLS, begun=False), [text(ids)])
        assert bool(said) != bool(calls)
        assert calls or form is not FORCED
        for called, arguments in calls:
            assert called == "f"
            jsonschema.validate(json.loads(arguments), SCHEMA)


@pytest.mark.parametrize("name", ["hermes", "llama3"])
async def test_a_guide_leaves_other_answers_as_they_are(model_engine: Engine, name: str) -> None:
    syntax = build_call_syntax(name, ())
    assert syntax is not None
    question = "What is the capital of France?"
    free = await play(model_engine, chat(question, None))
    guided = await play(model_engine, chat(question, syntax.build_constraint(TOOLS, AnswerForm())))
    assert (guided[0], guided[1].reason) == (free[0], FinishReason.STOP)
