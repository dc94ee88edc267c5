"""Trains the embedded model from nothing; `python -m training.embedded.train --help` lists the knobs.

One device, or several processes that share a CPU's cores: each reads examples of its own, and they average their gradients, which
keeps two cores busy where threads of one process wait for each other. A run that was stopped continues from its last checkpoint.
Knows nothing of serving.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path
from random import Random

import torch
import torch.distributed as dist
import torch.nn.functional as fn
import yaml
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters
from torch.optim import AdamW, Muon, Optimizer
from transformers import Phi3ForCausalLM

from training.embedded.conversation import Example
from training.embedded.families import MIXTURE, draw, mixture
from training.embedded.model import last_states, load_folder, new_model, rotary_table, save_folder
from training.embedded.packing import ROW_LENGTHS, Batch, Stream
from training.embedded.tokenizer import encode_training, train_tokenizer

_TYPES = {"folder": Path, "whole": int, "real": float}
"""Types that `files/options.yaml` names."""


def main(arguments: list[str] | None = None) -> None:
    """Train, checkpoint, and write the model folder at the end."""
    options = _parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "tokenizer.json").exists():
        _make_tokenizer(options.seed).save(str(options.work / "tokenizer.json"))
    if options.processes > 1:
        (options.work / "processes").unlink(missing_ok=True)
        spawn(_work, (options,), options.processes)  # type: ignore[no-untyped-call]
    else:
        _work(0, options)


def _work(rank: int, options: argparse.Namespace) -> None:
    """Be process `rank` of the run."""
    if options.processes > 1:
        meeting = options.work / "processes"
        dist.init_process_group("gloo", init_method=f"file://{meeting.absolute()}", rank=rank, world_size=options.processes)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = new_model(layers=options.layers, intermediate=options.intermediate).to(device)
    if rank == 0:
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}", flush=True)
    if options.init:
        warm_start(model, tokenizer, *load_folder(options.init))
    run = Run(model, tokenizer, options, device, rank)
    run.resume()
    run.train()
    if rank == 0:
        save_folder(model, tokenizer, options.out)
        print(f"written to {options.out}")


@torch.no_grad()
def warm_start(model: Phi3ForCausalLM, tokenizer: Tokenizer, old: Phi3ForCausalLM, old_tokenizer: Tokenizer) -> None:
    """Copy the weights of a model of the same shape; the row of a token that it lacks is the mean of its pieces' rows."""
    model.load_state_dict(old.state_dict())
    known = old_tokenizer.get_vocab()
    for text, token in tokenizer.get_vocab().items():
        pieces = [known[text]] if text in known else old_tokenizer.encode(tokenizer.decode([token])).ids
        model.model.embed_tokens.weight[token] = old.model.embed_tokens.weight[pieces].mean(0)


class Run:
    """The state of one training run: step count, optimizers, elapsed time."""

    def __init__(
        self, model: Phi3ForCausalLM, tokenizer: Tokenizer, options: argparse.Namespace, device: torch.device, rank: int = 0
    ) -> None:
        """Set up optimizers: Muon for the matrices of the blocks, AdamW for embedding and norms."""
        self.model, self.tokenizer, self.options, self.device, self.rank = model, tokenizer, options, device, rank
        matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
        others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
        muon = Muon(matrices, lr=options.lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        self.optimizers: list[Optimizer] = [muon, AdamW(others, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0)]
        self.step, self.elapsed_s = 0, 0.0
        if options.compile:
            for block in model.model.layers:  # compiled once for all blocks, and once for each length of rows
                block.compile(dynamic=False)
        kinds = product(ROW_LENGTHS, (False, True))
        self.rotary = {kind: rotary_table(model.config, kind[0], long=kind[1], device=device) for kind in kinds}

    @property
    def progress(self) -> float:
        """The part of the run that is done, 0 to 1, by steps or by minutes, whichever is further."""
        return float(max(self.step / self.options.steps, self.elapsed_s / (60 * self.options.minutes)))

    def learning_rate(self) -> float:
        """Linear warm-up over 100 steps, flat, then down to 2 % over the last half."""
        warm = min(1.0, (self.step + 1) / 100)
        return float(self.options.lr) * warm * min(1.0, max(0.02, (1 - self.progress) / 0.5))

    def train(self) -> None:
        """Run to the end, with a report, a checkpoint and an evaluation every so often."""
        options, seen_tokens, loss_sum, since = self.options, 0, torch.zeros((), device=self.device), time.monotonic()
        stream = Stream(self.tokenizer, f"{options.seed}/{self.rank}", options.tokens_per_step, self.step).loaded(options.workers)
        last = since
        while self.progress < 1:
            batch = next(stream)
            loss_sum += self.update(batch)
            seen_tokens += batch.tokens.numel() * options.processes
            self.step += 1
            now = time.monotonic()
            self.elapsed_s, last = self._agreed(self.elapsed_s + now - last), now
            if self.rank > 0:
                continue
            if self.step % options.report == 0:
                bar, loss = "#" * int(20 * min(1.0, self.progress)), float(loss_sum) / options.report
                state = f"[{bar:<20}] step {self.step} {self.elapsed_s / 60:.1f} min loss {loss:.4f}"
                print(f"{state} {seen_tokens / (now - since):.0f} tok/s lr {self.learning_rate():.2e}", flush=True)
                seen_tokens, loss_sum, since = 0, torch.zeros_like(loss_sum), now
            if self.step % options.checkpoint == 0:
                self.save()
                self.report_accuracy(options.judged)
        if self.rank == 0:
            self.save()
            self.report_accuracy(3 * options.judged)

    def _agreed(self, elapsed_s: float) -> float:
        """Return the first process's clock: rate and end of the run must be the same in all."""
        clock = torch.tensor([elapsed_s], dtype=torch.float64)
        if self.options.processes > 1:
            dist.broadcast(clock, 0)
        return float(clock)

    def _average_gradients(self) -> None:
        if self.options.processes > 1:
            gradients = [parameter.grad for parameter in self.model.parameters()]
            joined = parameters_to_vector(gradients) / self.options.processes
            dist.all_reduce(joined)
            vector_to_parameters(joined, gradients)

    def update(self, batch: Batch) -> Tensor:
        """Take one optimizer step; return the mean loss over the batch's targets, which a GPU may still be computing."""
        wanted = batch.targets.flatten().nonzero()[:, 0]  # a row's first token is a role's marker, never wanted
        weights, targets = (values.flatten()[wanted].to(self.device) for values in (batch.targets, batch.tokens))
        tokens, before = batch.tokens.to(self.device), (wanted - 1).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            states = last_states(self.model, tokens, self.rotary[tokens.shape[1], batch.long])
            scores = self.model.lm_head(states.flatten(0, 1)[before])
        loss = (fn.cross_entropy(scores.float(), targets, reduction="none") * weights).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        self._average_gradients()
        clip_grad_norm_(self.model.parameters(), 1.0)
        rate = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def save(self) -> None:
        """Write the checkpoint in one step, and a model folder beside it."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        draft = self.options.work / "checkpoint.pt.new"
        torch.save((self.model.state_dict(), optimizers, self.step, self.elapsed_s), draft)
        draft.rename(self.options.work / "checkpoint.pt")
        save_folder(self.model, self.tokenizer, self.options.work / "model")

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one."""
        path = self.options.work / "checkpoint.pt"
        if not path.exists():
            return
        weights, optimizers, self.step, self.elapsed_s = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(weights)
        for optimizer, saved in zip(self.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(saved)
        if self.rank == 0:
            print(f"resumed at step {self.step}", flush=True)

    def report_accuracy(self, count: int) -> None:
        """Print the share of held-out answers that greedy decoding would write exactly."""
        rng, cells = Random(1), []
        with torch.compiler.set_stance("force_eager"):  # every example has a length of its own
            for sampler in MIXTURE:
                examples = [draw(sampler, rng, held_out=True) for _ in range(count)]
                share = forced_accuracy(self.model, self.tokenizer, examples)
                cells.append(f"{sampler.__name__} {100 * share:.0f}")
        print("  exact %: " + ", ".join(cells), flush=True)


@torch.inference_mode()
def forced_accuracy(model: Phi3ForCausalLM, tokenizer: Tokenizer, examples: Sequence[Example]) -> float:
    """Return the share of examples whose last answer greedy decoding would reproduce, by one forward pass each.

    It would if and only if every target is the best token given those before it in the reference answer.
    """
    device = next(model.parameters()).device
    right = 0
    for example in examples:
        pairs = list(encode_training(tokenizer, example.messages))
        tokens = torch.tensor([token for token, _ in pairs], device=device)
        start = len(pairs) - next(i for i, (_, target) in enumerate(reversed(pairs)) if not target)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            rotary = rotary_table(model.config, len(pairs), long=False, device=device)
            best = model.lm_head(last_states(model, tokens[None], rotary)[0, start - 1 : -1]).argmax(-1)
        right += bool((best == tokens[start:]).all())
    return right / len(examples)


def _make_tokenizer(seed: int) -> Tokenizer:
    """Train a tokenizer on the first examples of a stream."""
    examples = islice(mixture(seed, long_share=0.005), 30_000)
    return train_tokenizer(
        "\n".join(text for turn in each.messages for text in (turn.content, turn.tools) if text) for each in examples
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, option in yaml.safe_load(Path(__file__).with_name("files").joinpath("options.yaml").read_text()).items():
        parser.add_argument(f"--{name}", **option | ({"type": _TYPES[option["type"]]} if "type" in option else {}))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
