"""The tutorial's own prompts, answered right by the embedded model on every engine and precision: numbers compared, code run."""

import pytest
from tokenizers import Tokenizer

from serve_app.engines.base import Engine
from serve_app.models.catalog import EMBEDDED
from training.checks import is_right
from training.evaluate import answer
from training.families.tutorial import examples


@pytest.mark.parametrize("name", ["vllm", "onnx", "onnx_int8", "onnx_int4"])
async def test_the_tutorials_prompts_are_answered(name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(f"{name}_engine")
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    for number, example in enumerate(examples()):
        text = await answer(engine, tokenizer, example, f"tutorial-{name}-{number}")
        assert is_right(text, example.check), (example.messages[-2].content, text)
