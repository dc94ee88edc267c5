"""Training with torch: the same gradients and the same clock in all processes, examples of its own from each; averaged weights."""

from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer, models
from torch.multiprocessing.spawn import spawn

from serve_app.models.locate import EMBEDDED
from training.embedded.average import average
from training.embedded.model import load_folder, new_model
from training.embedded.packing import Stream
from training.embedded.train import Run, _parse


def _be(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    model = new_model(layers=1, intermediate=8)
    run = Run(model, Tokenizer(models.BPE()), _parse(["--processes", "2"]), torch.device("cpu"), rank)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1.0 + 2 * rank)
    run._average_gradients()
    assert all(parameter.grad is not None and bool((parameter.grad == 2).all()) for parameter in model.parameters())
    assert run._agreed(5.0 + rank) == 5.0
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_averaged_and_the_first_clock_counts(tmp_path: Path) -> None:
    spawn(_be, (f"file://{tmp_path / 'meeting'}",), 2)  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_writing_processes_have_examples_of_their_own_and_give_the_same_ones_again() -> None:
    stream = Stream(Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")), "5/0", 1024, 0)
    found = [[batch.tokens.flatten().tolist() for batch in islice(stream.loaded(2), 4)] for _ in range(2)]
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_averaged_models_have_the_weighted_sum_of_the_weights() -> None:
    (first, _), (second, _), (wanted, _) = (load_folder(EMBEDDED) for _ in range(3))
    with torch.no_grad():
        for weight in second.parameters():
            weight.zero_()
    mean = average([(first, 0.75), (second, 0.25)])
    for found, whole in zip(mean.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(found, 0.75 * whole)
    with pytest.raises(ValueError, match="sum to 1"):
        average([(first, 0.5)])
