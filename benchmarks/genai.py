"""onnxruntime-genai's own two ways to generate, for comparison: the `Generator` loop of one stream, and the batching `Engine`.

The Engine wants logits of every position, the Generator is at its best with the pruned head, so each gets its own export.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

NEVER = 9
"""A token that the embedded model does not write: no stream ends early."""
_MAX_LENGTH = 4096
Late = tuple[int, Sequence[int]]


def export(model_dir: Path, target: Path, precision: str, *, prune: bool, threads: int, batch: int) -> Path:
    """Export for onnxruntime-genai with `threads` threads, no early end and batches of `batch`; return `target`."""
    options = [f"prune_lm_head={str(prune).lower()}", "shared_embeddings=true", "accuracy_level=4"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model_dir), "-o", str(target)]
    command += ["-p", precision, "-e", "cpu", "-c", str(target) + ".cache", "--extra_options", *options]
    subprocess.run(command, check=True, capture_output=True)
    file = target / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["eos_token_id"] = NEVER
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    config["search"]["max_length"] = _MAX_LENGTH
    config["engine"] = {"static_batching": {"max_batch_size": batch}}
    file.write_text(json.dumps(config))
    return target


class Loop:
    """One stream by `Generator`."""

    def __init__(self, folder: Path) -> None:
        """Load the model."""
        self._model = og.Model(str(folder))

    def run(self, prompt: Sequence[int], tokens: int) -> float:
        """Generate `tokens` greedy tokens; return tokens per second after the first."""
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=len(prompt) + tokens, do_sample=False)
        generator = og.Generator(self._model, params)
        generator.append_tokens(np.asarray([prompt], np.int32))
        generator.generate_next_token()
        began, made = time.perf_counter(), 1
        while not generator.is_done():
            generator.generate_next_token()
            made += 1
        return (made - 1) / (time.perf_counter() - began)


class Batching:
    """Several streams by `Engine`."""

    def __init__(self, folder: Path) -> None:
        """Load the model, in the one thread that may use it."""
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._load, folder).result()

    def _load(self, folder: Path) -> None:
        self._engine = og.Engine(og.Model(str(folder)))
        self._buffer = self._engine.create_event_buffer(1024)

    def run(
        self, prompts: Sequence[Sequence[int]], tokens: int, late: tuple[int, Sequence[int]] | None = None
    ) -> tuple[float, int]:
        """Generate `tokens` tokens for each prompt; return tokens per second, and the steps a late joiner waited for its first.

        `late` is the step at which one more prompt joins, and the prompt.
        """
        return self._thread.submit(self._run, prompts, tokens, late).result()

    def _run(self, prompts: Sequence[Sequence[int]], tokens: int, late: Late | None) -> tuple[float, int]:
        requests = [self._begin(prompt, tokens) for prompt in prompts]
        began, made, step, joined, waited = time.perf_counter(), 0, 0, None, 0
        while self._engine.has_pending_requests():
            events = list(self._engine.run(self._buffer))
            step += 1
            made += sum(event.token is not None for event in events)
            if late and step == late[0]:
                joined = self._begin(late[1], 8)
                requests.append(joined)
            elif joined is not None and not waited and any(event.request == joined for event in events):
                waited = step - late[0]  # type: ignore[index]
        took = time.perf_counter() - began
        for request in requests:
            request.close()
        return made / took, waited

    def _begin(self, prompt: Sequence[int], tokens: int) -> og.Request:
        limit = og.RequestOptions()
        limit.set_max_session_tokens(_MAX_LENGTH)
        request = self._engine.create_request(options=limit)
        options = og.TurnOptions(request)
        options.set_max_generated_tokens(tokens)
        options.set_do_sample(False)
        request.begin_turn(np.asarray(prompt, np.int32), options)
        return request
