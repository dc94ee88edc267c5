"""Memory of one replica, loaded and with a full KV cache: `python -m benchmarks.memory MODEL '{"kind": "onnx", "slots": 2}'`.

Runs the replica's own class in this process, without Ray, and prints one line of JSON: proportional set sizes (PSS) in bytes of
this process and its descendants. `loaded`: ready, nothing computed but the warm-up; `full`: after as many prompts at once as the
engine computes together, each as long as the context allows; `peak`: the most seen while they were computed. `start_s` are the
seconds until it was ready. A form of the weights that is not in the cache yet is exported by a process of its own, whose memory
does not count.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import threading
import time
from typing import Any

from pydantic import TypeAdapter

from deployments.replica import EngineReplica, NamedModel
from serve_app.config import ModelSettings
from serve_app.encoding import EncodeRequest
from serve_app.engine_config import ENCODERS, EngineSettings, VllmSettings
from serve_app.memory import measure_tree_bytes
from serve_app.models.export import derive
from serve_app.models.locate import locate
from serve_app.reports import ReplicaReport
from serve_app.types import Sampling, TokenRequest

_SAMPLE_EVERY_S = 0.2


class Peak(threading.Thread):
    """Samples the memory of this process and its descendants until it is ended."""

    def __init__(self) -> None:
        """Start at nothing."""
        super().__init__(daemon=True)
        self.bytes = 0
        self._end = threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self._end.wait(_SAMPLE_EVERY_S):
            self.bytes = max(self.bytes, measure_tree_bytes(os.getpid()) or 0)

    def end(self) -> int:
        """Return the most that was seen."""
        self._end.set()
        self.join()
        return self.bytes


async def _send(report: ReplicaReport) -> bool:
    return True


def _export(model: str, given: str) -> None:
    """Put the form that the engine loads into the cache."""
    settings = TypeAdapter(EngineSettings).validate_json(given)
    derive(locate(ModelSettings(path=model), weights=True), settings)


def draw_prompts(count: int, length: int, vocabulary: int) -> list[tuple[int, ...]]:
    """Return prompts of random ids without a common prefix."""
    draw = random.Random(1)
    return [tuple(draw.randrange(10, vocabulary) for _ in range(length)) for _ in range(count)]


async def _fill(replica: EngineReplica, settings: Any, vocabulary: int) -> None:
    """Compute as many of the longest prompts at once as the engine takes, and two tokens after each."""
    assert replica._engine is not None
    info = replica._engine.info
    if settings.kind in ENCODERS:
        inputs = tuple(draw_prompts(8, info.context_length, vocabulary))
        async for _ in replica.encode(EncodeRequest(request_id="fill", inputs=inputs)):
            pass
        return

    async def ask(at: int, prompt: tuple[int, ...]) -> None:
        request = TokenRequest(request_id=f"fill-{at}", prompt=prompt, sampling=Sampling(temperature=1.0, max_tokens=2, seed=at))
        async for batch in replica.generate(request):
            for event in batch:
                if isinstance(event, Exception):
                    raise event

    prompts = draw_prompts(info.max_concurrency, info.context_length - 3, vocabulary)
    # vLLM's cache is smaller than its sequences together; two rounds write every block of it.
    rounds = 2 if isinstance(settings, VllmSettings) else 1
    for _ in range(rounds):
        await asyncio.gather(*(ask(at, prompt) for at, prompt in enumerate(prompts)))


async def measure(model: str, given: str) -> dict[str, Any]:
    """Return what the module's docstring says."""
    settings = TypeAdapter(EngineSettings).validate_json(given)
    named = NamedModel("model", ModelSettings(path=model))
    replica = EngineReplica.__new__(EngineReplica)
    began = time.monotonic()
    await replica.__init__("group", settings, named, lambda: ("replica", _send))  # type: ignore[misc,func-returns-value]
    start_s = time.monotonic() - began
    await asyncio.sleep(1.0)  # what the warm-up leaves behind is freed
    loaded = measure_tree_bytes(os.getpid())
    vocabulary = json.loads((locate(named.settings, weights=False) / "config.json").read_text())["vocab_size"]
    peak = Peak()
    peak.start()
    await _fill(replica, settings, min(vocabulary, 199_998))
    full = measure_tree_bytes(os.getpid())
    found = {"loaded": loaded, "full": full, "peak": peak.end(), "start_s": round(start_s, 1)}
    await replica.close()
    return found


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="`embedded` or a folder")
    parser.add_argument("settings", help="a group's settings in JSON")
    options = parser.parse_args()
    exporter = multiprocessing.get_context("spawn").Process(target=_export, args=(options.model, options.settings))
    exporter.start()
    exporter.join()
    if exporter.exitcode:
        raise SystemExit("the export failed")
    # One process a measurement: what an engine has allocated is not all given back.
    print(json.dumps(asyncio.run(measure(options.model, options.settings)), allow_nan=False), flush=True)
    os._exit(0)  # engines leave threads; nothing is left to be written


if __name__ == "__main__":
    main()
