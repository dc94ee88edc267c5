"""Averages models of one shape: `python -m training.embedded.average --out DIR NEW=0.6 OLD=0.4`.

Where one model was trained on from the other, the mean keeps most of what the second learned and gives back some of what it forgot.
Which shares are best is for `evaluate` to say.
"""

import argparse
from pathlib import Path

import torch
from transformers import Phi3ForCausalLM

from training.embedded.model import load_folder, save_folder


@torch.no_grad()
def average(models: list[tuple[Phi3ForCausalLM, float]]) -> Phi3ForCausalLM:
    """Return the first model, its weights replaced by the weighted sum of all; raises ValueError unless the shares sum to 1."""
    if abs(sum(share for _, share in models) - 1) > 1e-6:
        raise ValueError("the shares must sum to 1")
    states, first = [(model.state_dict(), share) for model, share in models], models[0][0]
    first.load_state_dict({name: sum(state[name] * share for state, share in states) for name in first.state_dict()})
    return first


def main(arguments: list[str] | None = None) -> None:
    """Read, average, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="FOLDER=SHARE; the first one's tokenizer is kept")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    given = [(folder, float(share)) for folder, _, share in (each.rpartition("=") for each in options.models)]
    loaded = [(*load_folder(Path(folder)), share) for folder, share in given]
    save_folder(average([(model, share) for model, _, share in loaded]), loaded[0][1], options.out)


if __name__ == "__main__":
    main()
