"""Prints a table of held-out accuracy per family and engine: greedy answers, judged by `checks`.

The answers come from the served engines themselves, so the loss by an export's precision shows, and calls are guided as the
ingress guides them; an engine with `:free` behind it shows what the model does alone. Example:
`python -m training.embedded.evaluate --count 200 --engines onnx:fp32 onnx:int8 onnx:int4 vllm:float32 onnx:fp32:free`.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import yaml
from tokenizers import Tokenizer

from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.phi4.call_grammar import build_guided_calls
from serve_app.engine_config import OnnxSettings, VllmSettings
from serve_app.engines.base import Engine
from serve_app.engines.registry import build_engine
from serve_app.models.export import derive
from serve_app.types import Sampling, TokenDelta, TokenRequest
from training.embedded.conversation import Example, is_right
from training.embedded.families import FINITE, MIXTURE, draw
from training.embedded.families.text_calls import bury
from training.embedded.families.tutorial import examples as tutorial_examples
from training.embedded.families.tutorial import tutorial
from training.embedded.tokenizer import END, END_OF_TEXT, encode_prompt

_AT_ONCE = 16
_CONTEXT = 4096
_LONGEST_ANSWER = 700
_EVALUATION_SEED = 2_000_003


def main(arguments: list[str] | None = None) -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("serve_app/models/embedded"), help="the model folder")
    parser.add_argument("--count", type=int, default=200, help="prompts per family")
    parser.add_argument("--engines", nargs="+", default=["onnx:fp32", "onnx:int8", "onnx:int4", "vllm:float32", "onnx:fp32:free"])
    parser.add_argument("--families", nargs="*", default=[], help="only families whose name holds one of these words")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print every wrong answer")
    options = parser.parse_args(arguments)
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    suites = _suites(options.count, options.families)
    columns = {name: asyncio.run(_scores(name, options, tokenizer, suites)) for name in options.engines}
    goals = yaml.safe_load(Path(__file__).with_name("files").joinpath("goals.yaml").read_text())
    print("| family | prompts | goal |", " | ".join(columns), "|")
    print("|---|---|---|" + "---|" * len(columns))
    for family, examples in suites.items():
        goal = f"{goals[family]} %" if family in goals else ""
        cells = [f"{100 * scores[family] / len(examples):.1f} %" for scores in columns.values()]
        print(f"| {family} | {len(examples)} | {goal} |", " | ".join(cells), "|")


def _suites(count: int, wanted: Sequence[str]) -> dict[str, list[Example]]:
    """The prompts of every family by its name, the same for every engine."""
    found = {"tutorial, word for word": tutorial_examples()}
    for sampler in MIXTURE:
        if sampler is not tutorial:
            rng = Random(f"{_EVALUATION_SEED}/{sampler.__name__}")
            examples = [draw(sampler, rng, held_out=True) for _ in range(count)]
            found[examples[0].family + (" (asked as trained)" if sampler in FINITE else "")] = examples
    rng = Random(_EVALUATION_SEED)
    found["tutorial behind ~2,500 tokens of filler"] = [bury(rng, example, 200) for example in tutorial_examples()]
    return {family: examples for family, examples in found.items() if not wanted or any(name in family for name in wanted)}


async def _scores(name: str, options: argparse.Namespace, tokenizer: Tokenizer, suites: dict[str, list[Example]]) -> dict[str, int]:
    """The number of right answers per family on one engine."""
    kind, precision, *free = name.split(":")
    form, keys = (OnnxSettings, ("precision", "slots")) if kind == "onnx" else (VllmSettings, ("dtype", "max_num_seqs"))
    settings = form.model_validate({keys[0]: precision, keys[1]: _AT_ONCE, "threads": options.threads})
    engine = build_engine(settings, derive(options.model, settings))
    await engine.start()
    try:
        scores = {}
        for family, examples in suites.items():
            scores[family] = await _right(name, engine, tokenizer, examples, show=options.show, guided=not free)
            print(f"{name} {family}: {scores[family]} of {len(examples)}", file=sys.stderr, flush=True)
        return scores
    finally:
        await engine.close()


async def _right(name: str, engine: Engine, tokenizer: Tokenizer, examples: Sequence[Example], *, show: bool, guided: bool) -> int:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def judge(number: int, example: Example) -> bool:
        async with gate:
            text = await answer(engine, tokenizer, example, f"{name}-{example.family}-{number}", guided=guided)
        good = await asyncio.get_running_loop().run_in_executor(pool, is_right, text, example.check)
        if show and not good:
            print(f"  {name} {example.messages[-2].content[-160:]!r}\n    wanted {example.answer!r}\n    got    {text!r}")
        return good

    with ThreadPoolExecutor(2) as pool:
        return sum(await asyncio.gather(*(judge(number, example) for number, example in enumerate(examples))))


async def answer(engine: Engine, tokenizer: Tokenizer, example: Example, request_id: str, *, guided: bool = True) -> str:
    """Return the greedy answer to everything before the example's last turn, control tokens visible."""
    tools = next((message.tools for message in example.messages if message.tools), "")
    guide = build_guided_calls(parse_tools(json.loads(tools))) if tools and guided else None
    prompt = tuple(encode_prompt(tokenizer, example.messages[:-1]))
    longest = min(_LONGEST_ANSWER, _CONTEXT - len(prompt))
    sampling = Sampling(temperature=0.0, max_tokens=longest, stop_token_ids=(END, END_OF_TEXT))
    request = TokenRequest(request_id=request_id, prompt=prompt, sampling=sampling, constraint=guide)
    ids = [token async for event in engine.generate(request) if isinstance(event, TokenDelta) for token in event.ids]
    return str(tokenizer.decode(ids, skip_special_tokens=False))


if __name__ == "__main__":
    main(sys.argv[1:])
