"""The tutorial's own prompts, answered right by the embedded model on every engine and precision: numbers compared, code run."""

import asyncio

from tokenizers import Tokenizer

from serve_app.engines.base import Engine
from serve_app.models.locate import EMBEDDED
from training.embedded.conversation import is_right
from training.embedded.evaluate import answer
from training.embedded.families.tutorial import examples


async def test_the_tutorials_prompts_are_answered(any_precision_engine: Engine) -> None:
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    asked = examples()
    said = await asyncio.gather(*(answer(any_precision_engine, tokenizer, each, f"tutorial-{at}") for at, each in enumerate(asked)))
    for example, text in zip(asked, said, strict=True):
        assert is_right(text, example.check), (example.messages[-2].content, text)
