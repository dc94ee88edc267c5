"""The tutorial's own prompts, answered right by the embedded model on every engine and precision: numbers compared, code run."""

import pytest
from tokenizers import Tokenizer

from serve_app.engines.base import Engine
from serve_app.models.locate import EMBEDDED
from training.embedded.conversation import is_right
from training.embedded.evaluate import answer
from training.embedded.families.tutorial import examples


@pytest.fixture(params=["vllm", "onnx", "onnx_int8", "onnx_int4", "llama_cpp", "llama_cpp_q8_0", "llama_cpp_q4_0"])
def served(request: pytest.FixtureRequest) -> Engine:
    """Every engine and precision in turn."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


async def test_the_tutorials_prompts_are_answered(served: Engine) -> None:
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    for number, example in enumerate(examples()):
        text = await answer(served, tokenizer, example, f"tutorial-{number}")
        assert is_right(text, example.check), (example.messages[-2].content, text)
