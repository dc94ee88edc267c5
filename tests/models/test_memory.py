"""What `phi-serve plan` says that a replica takes is what it takes: every engine in a process of its own, its KV cache full.

Printed with `-s`: a table of planned and measured proportional set sizes. `benchmarks.memory` makes one line of it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from benchmarks import stand_in
from serve_app.engine_config import EngineSettings
from serve_app.memory import read_available_bytes
from serve_app.sizing.engines import estimate_replica
from serve_app.sizing.shape import find_model

pytestmark = [pytest.mark.measured, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
BOUND = 0.15
MINILM = ROOT / ".cache" / "tools" / "all-MiniLM-L6-v2"
WIDE_SHAPE = stand_in.Shape(hidden=1024, intermediate=4096, layers=4, heads=8, kv_heads=4)
"""The real model's vocabulary over a body of which float32 weights, packed twice, still fit beside a test run."""
NEEDED_BYTES = 6 << 30
SHIPPED: dict[str, dict[str, Any]] = {
    "vllm": {"kind": "vllm", "max_num_seqs": 16, "kv_cache_gib": 0.25, "threads": 1},
    "onnx fp32": {"kind": "onnx", "precision": "fp32", "slots": 16, "threads": 1},
    "onnx int4": {"kind": "onnx", "precision": "int4", "slots": 16, "threads": 1},
    "llama_cpp f32": {"kind": "llama_cpp", "precision": "f32", "slots": 4, "threads": 1},
    "llama_cpp q8_0": {"kind": "llama_cpp", "precision": "q8_0", "slots": 4, "threads": 1},
}
WIDE: dict[str, dict[str, Any]] = {
    "vllm": {"kind": "vllm", "max_num_seqs": 2, "kv_cache_gib": 0.5, "max_model_len": 2048, "threads": 2},
    "vllm bfloat16": {"kind": "vllm", "max_num_seqs": 2, "dtype": "bfloat16", "max_model_len": 2048, "threads": 2},
    "onnx fp32": {"kind": "onnx", "precision": "fp32", "slots": 3, "max_model_len": 2048, "threads": 2},
    "onnx int8": {"kind": "onnx", "precision": "int8", "slots": 3, "max_model_len": 2048, "threads": 2},
    "onnx int4": {"kind": "onnx", "precision": "int4", "slots": 3, "max_model_len": 2048, "threads": 2},
    "llama_cpp f32": {"kind": "llama_cpp", "precision": "f32", "slots": 3, "max_model_len": 2048, "threads": 2},
    "llama_cpp q8_0": {"kind": "llama_cpp", "precision": "q8_0", "slots": 3, "max_model_len": 2048, "threads": 2},
    "llama_cpp q4_0": {"kind": "llama_cpp", "precision": "q4_0", "slots": 3, "max_model_len": 2048, "threads": 2},
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "model"
    stand_in.write(folder, WIDE_SHAPE)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[list[str]]:
    lines: list[str] = []
    yield lines
    head = "| model, engine | weights | KV | other | planned | loaded | full | planned against full |"
    print("\n".join(["", head, "|" + "---|" * 8, *lines]))


def _measure(model: str, settings: dict[str, Any], cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", model, json.dumps(settings)]
    environment = os.environ | {"PHI_SERVE_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _compare(name: str, model: str, given: dict[str, Any], cache: Path, table: list[str]) -> None:
    settings: Any = TypeAdapter(EngineSettings).validate_python(given)
    size = estimate_replica(settings, find_model(model))
    found = _measure(model, given, cache)
    planned = size.total_bytes
    full = max(found["full"], found["peak"])
    parts = (size.weights_bytes, size.kv_bytes, size.other_bytes, planned, found["loaded"], full)
    table.append(f"| {name} | {' | '.join(f'{each / 2**20:,.0f}' for each in parts)} | {planned / full - 1:+.0%} |")
    assert planned == pytest.approx(full, rel=BOUND), table[-1]
    loaded = planned - size.kv_bytes - size.buffers_bytes
    assert found["loaded"] > loaded / 2, "tables that are mapped are read as they are used"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_embedded_model(name: str, cache: Path, table: list[str]) -> None:
    _compare(f"embedded, {name}", "embedded", SHIPPED[name], cache, table)


@pytest.mark.parametrize("name", WIDE)
def test_the_real_vocabulary(name: str, wide: Path, cache: Path, table: list[str]) -> None:
    if read_available_bytes() < NEEDED_BYTES:
        pytest.skip("needs 6 GiB of free memory")  # it would take what others on the machine need
    _compare(f"stand-in, {name}", str(wide), WIDE[name], cache, table)


@pytest.mark.skipif(not MINILM.exists(), reason="all-MiniLM-L6-v2 is not here; `make tools` fetches it")
def test_an_encoder(cache: Path, table: list[str]) -> None:
    _compare("MiniLM, onnx_encoder", str(MINILM), {"kind": "onnx_encoder", "threads": 2}, cache, table)
