"""Derives the ONNX form of a model and keeps it in a cache folder.

The cache is keyed by the source's content, so another model or precision never meets a stale file; several replicas that start at
once export once. Needs onnxruntime-genai's builder only when the cache is empty.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serve_app.config import FakeSettings, OnnxSettings, VllmSettings
from serve_app.errors import EngineDead
from serve_app.models import manifest
from serve_app.models.memory import available_bytes

logger = logging.getLogger(__name__)

_GRAPH_FORM = "logits_at"
"""Changes whenever the graph is edited otherwise after the builder has written it."""
_BUILDER_OPTIONS = ("prune_lm_head=true", "shared_embeddings=true", "accuracy_level=4")


def cache_dir() -> Path:
    """Return the folder for derived files: $PHI_SERVE_CACHE, else phi-serve under the user's cache."""
    configured = os.environ.get("PHI_SERVE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phi-serve"


def derive(model_dir: Path, settings: VllmSettings | OnnxSettings | FakeSettings) -> Path:
    """Return the folder that the engine of `settings` loads: `model_dir` itself or a form derived from it."""
    if not isinstance(settings, OnnxSettings):
        return model_dir
    if settings.exported is None:
        return export_onnx(model_dir, settings.precision)
    folder = Path(settings.exported).expanduser()
    about = manifest.verify(folder)
    if about.get("precision") != settings.precision:
        raise EngineDead(
            f"the folder under `exported` holds {about.get('precision')} weights, but precision is {settings.precision}"
        )
    return folder


def export_onnx(model_dir: Path, precision: str) -> Path:
    """Return the folder with `model.onnx` in `precision` (fp32, int8 or int4), exporting it first if needed.

    Raises `EngineDead` when the export fails, with its output in the log; nothing half-written stays behind.
    """
    target = cache_dir() / "onnx" / f"{_fingerprint(model_dir)}-{precision}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not target.exists():
                _build(model_dir, precision, target)
    manifest.verify(target)
    return target


def write_onnx(model_dir: Path, precision: str, target: Path) -> None:
    """Export to the new folder `target`, whole or not at all.

    Raises `EngineDead` when `target` exists, when disk or memory cannot hold the export, or when it fails.
    """
    if target.exists():
        raise EngineDead(f"{target.name} exists already; give a new folder")
    require_resources(model_dir, precision, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _build(model_dir, precision, target)


_BYTES_PER_WEIGHT = {"fp32": 4.0, "int8": 1.25, "int4": 0.75}
_MEMORY_PER_WEIGHT = 6.5
"""Bytes that the builder takes at its peak; 23 GB were measured for 3.8 billion weights."""


def require_resources(model_dir: Path, precision: str, target: Path) -> None:
    """Raise `EngineDead` with the arithmetic when the export cannot fit the disk at `target` or the memory."""
    weights = sum(map(_count_weights, model_dir.glob("*.safetensors")))
    disk, memory = 2 * weights * _BYTES_PER_WEIGHT[precision] + 2**26, weights * _MEMORY_PER_WEIGHT + 2**29
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    for what, needed, there in (("disk", disk, shutil.disk_usage(parent).free), ("memory", memory, available_bytes())):
        if needed > there:
            raise EngineDead(
                f"exporting {weights / 1e6:,.0f} million weights to {precision} needs about {needed / 2**30:.1f} GiB of {what}, "
                f"and {there / 2**30:.1f} GiB are free"
            )


def _count_weights(file: Path) -> int:
    """Count from the header alone: eight bytes of length, then JSON with the shape of every tensor."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise EngineDead(f"{file.name} is no safetensors file; fetch the model again") from error


def _build(model_dir: Path, precision: str, target: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    logger.info("exporting %s to ONNX %s, once; later starts use the cache", model_dir.name, precision)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(model_dir), "-o", str(scratch / "out"), "-p", precision, "-e", "cpu", "-c", str(scratch / "cache")]
    command += ["--extra_options", *_BUILDER_OPTIONS]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode != 0 or not (scratch / "out" / "model.onnx").exists():
            logger.error("the ONNX export failed:\n%s", result.stderr)
            raise EngineDead(
                f"the export to ONNX {precision} failed with status {result.returncode}; the replica's log has the output"
            )
        _choose_positions(scratch / "out" / "model.onnx")
        shutil.copy(model_dir / "config.json", scratch / "out")
        manifest.write(scratch / "out", {"format": "onnx", "precision": precision, "builder": _builder_version()})
        os.replace(scratch / "out", target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _choose_positions(file: Path) -> None:
    """Give the graph an input `logits_at` (K,): the positions whose logits it returns, instead of the last one always.

    The builder prunes the head's input to the last position by a Gather with a constant and an Unsqueeze; with `logits_at` as the
    indices the Unsqueeze is not needed. Weights stay in their own file, untouched.
    """
    import onnx_ir as ir  # slow to import, and needed for an export only

    model = ir.load(file)
    gather = next((node for node in model.graph if node.op_type == "Gather" and node.outputs[0].name in _PRUNED), None)
    if gather is None:
        raise EngineDead(f"onnxruntime-genai {_builder_version()} writes another graph than this version of phi-serve knows")
    ((unsqueeze, _),) = gather.outputs[0].uses()
    positions = ir.Value(name="logits_at", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["kept"]))
    model.graph.inputs.append(positions)
    gather.replace_input_with(1, positions)
    for value in (gather.outputs[0], model.graph.outputs[0]):
        if value is not None and value.shape is not None:
            value.shape = ir.Shape(["batch_size", "kept", value.shape[-1]])
    unsqueeze.outputs[0].replace_all_uses_with(gather.outputs[0])
    model.graph.remove(unsqueeze, safe=True)
    ir.save(model, file)


_PRUNED = ("/lm_head/prune/Gather/output_0",)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel frees it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fingerprint(model_dir: Path) -> str:
    """Hash everything that the exported form depends on: the files it reads, the builder and its options."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{_builder_version()};{_BUILDER_OPTIONS};{_GRAPH_FORM};".encode())
    for file in sorted(p for p in model_dir.iterdir() if p.suffix in {".json", ".jinja", ".safetensors"}):
        digest.update(f"{file.name}:{_content(file)};".encode())
    return digest.hexdigest()


def _content(file: Path) -> str:
    """Return a hash of the file; the hub's cache names large files by theirs, which saves reading gigabytes."""
    stored = file.resolve()
    if stored.parent.name == "blobs":
        return stored.name
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _builder_version() -> str:
    for name in ("onnxruntime-genai", "onnxruntime-genai-cuda"):
        with suppress(PackageNotFoundError):
            return version(name)
    raise EngineDead("onnxruntime-genai is not installed; install the cpu or gpu extra")
