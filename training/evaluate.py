"""Prints a table of held-out accuracy per family for a model folder: greedy answers, judged by `checks`.

Example: `python -m training.evaluate --model serve_app/models/embedded --count 200`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from training.checks import is_right
from training.conversation import Example
from training.export import load_folder
from training.families import FINITE, MIXTURE, draw
from training.families.long_prompts import bury
from training.families.tutorial import examples as tutorial_examples
from training.families.tutorial import tutorial
from training.model import CausalModel, decode_greedy
from training.tokenizer import END, END_OF_TEXT, encode_prompt

_LONGEST_ANSWER = 700
_EVALUATION_SEED = 2_000_003


def main(arguments: list[str] | None = None) -> None:
    """Evaluate and print."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    model, tokenizer = load_folder(options.model)
    print("| family | prompts | right | split |\n|---|---|---|---|")
    _row(model, tokenizer, "tutorial, word for word", tutorial_examples(), "trained on", options.show)
    for sampler in MIXTURE:
        if sampler is tutorial:
            continue
        rng = Random(f"{_EVALUATION_SEED}/{sampler.__name__}")
        chosen = [draw(sampler, rng, held_out=True) for _ in range(options.count)]
        split = "seen phrasings" if sampler in FINITE else "held out"
        _row(model, tokenizer, chosen[0].family, chosen, split, options.show)
    rng = Random(_EVALUATION_SEED)
    buried = [bury(rng, example, 200) for example in tutorial_examples()]
    _row(model, tokenizer, "tutorial behind ~2,500 tokens of filler", buried, "new filler", options.show)


def answer(model: CausalModel, tokenizer: Tokenizer, example: Example) -> str:
    """Return the greedy answer to everything before the example's last turn, control tokens visible."""
    prompt = encode_prompt(tokenizer, example.messages[:-1])
    output = decode_greedy(model, prompt, _LONGEST_ANSWER, frozenset((END, END_OF_TEXT)))
    text: str = tokenizer.decode(output, skip_special_tokens=False)
    return text


def _row(model: CausalModel, tokenizer: Tokenizer, name: str, chosen: Sequence[Example], split: str, show: bool) -> None:
    right = 0
    for example in chosen:
        text = answer(model, tokenizer, example)
        good = is_right(text, example.check)
        right += good
        if show and not good:
            print(f"  {example.messages[-2].content[-160:]!r}\n    wanted {example.answer!r}\n    got    {text!r}")
    print(f"| {name} | {len(chosen)} | {100 * right / len(chosen):.1f} % | {split} |", flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("serve_app/models/embedded"), help="the model folder")
    parser.add_argument("--count", type=int, default=200, help="prompts per family")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print every wrong answer")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
