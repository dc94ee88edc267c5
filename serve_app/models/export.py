"""Derives the ONNX and GGUF forms of a model and keeps them in a cache folder.

The cache is keyed by the source's content, so another model or precision never meets a stale file; several replicas that start at
once export once. Needs onnxruntime-genai's builder or the gguf package only when the cache is empty.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serve_app.config import EngineSettings, LlamaCppSettings, OnnxSettings
from serve_app.errors import ModelUnusable
from serve_app.models import manifest
from serve_app.models.checkpoint import count_weights
from serve_app.models.memory import available_bytes

logger = logging.getLogger(__name__)

_GRAPH_FORM = "logits_at, last_position, total_length, original rotary tables"
"""Changes whenever the graph is edited otherwise after the builder has written it."""
_GGUF_FORM = "stray bytes in the private use area"
"""Changes whenever the file is written otherwise."""
USUAL_BLOCK = 32
"""Weights that share a scale, unless more are asked for: the finest, and what models are mostly published in."""
_BUILDER_OPTIONS = ("prune_lm_head=true", "shared_embeddings=true", "accuracy_level=4")


def cache_dir() -> Path:
    """Return the folder for derived files: $PHI_SERVE_CACHE, else phi-serve under the user's cache."""
    configured = os.environ.get("PHI_SERVE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phi-serve"


def derive(model_dir: Path, settings: EngineSettings) -> Path:
    """Return the folder that the engine of `settings` loads: `model_dir` itself or a form derived from it."""
    match settings:
        case OnnxSettings():
            form = "onnx"
        case LlamaCppSettings(gguf=None):
            form = "gguf"
        case _:
            return model_dir
    if settings.exported is None:
        block = settings.block_size if isinstance(settings, OnnxSettings) and settings.precision != "fp32" else USUAL_BLOCK
        return cached_form(model_dir, form, settings.precision, block)
    folder = Path(settings.exported).expanduser()
    about = manifest.verify(folder)
    for wanted, key in ((form, "format"), (settings.precision, "precision")):
        if about.get(key) != wanted:
            raise ModelUnusable(f"the folder under `exported` holds {about.get(key)} weights, but {key} is {wanted}")
    return folder


def cached_form(model_dir: Path, form: str, precision: str, block: int = USUAL_BLOCK) -> Path:
    """Return the cached folder with the model's `form` (onnx or gguf) in `precision`, exporting it first if needed.

    Raises `ModelUnusable` when the export fails, with its output in the log; nothing half-written stays behind.
    """
    coarser = "" if block == USUAL_BLOCK else f"-{block}"
    target = cache_dir() / form / f"{_fingerprint(model_dir, form)}-{precision}{coarser}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not target.exists():
                _build(model_dir, form, precision, block, target)
    manifest.verify(target)
    return target


def write_form(model_dir: Path, form: str, precision: str, target: Path, block: int = USUAL_BLOCK) -> None:
    """Export to the new folder `target`, whole or not at all; `block` weights of an int8 or int4 graph share a scale.

    Raises `ModelUnusable` when `target` exists, when disk or memory cannot hold the export, or when it fails.
    """
    if target.exists():
        raise ModelUnusable(f"{target.name} exists already; give a new folder")
    require_resources(model_dir, precision, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _build(model_dir, form, precision, block, target)


_BYTES_PER_WEIGHT = {"fp32": 4.0, "int8": 1.25, "int4": 0.75, "f32": 4.0, "f16": 2.0, "q8_0": 1.07, "q4_0": 0.6}
_MEMORY_PER_WEIGHT = {"fp32": 6.5, "int8": 6.5, "int4": 6.5}
"""Bytes that the ONNX builder takes at its peak; 23 GB were measured for 3.8 billion weights. GGUF is written piece by piece."""


def require_resources(model_dir: Path, precision: str, target: Path) -> None:
    """Raise `ModelUnusable` with the arithmetic when the export cannot fit the disk at `target` or the memory."""
    weights = count_weights(model_dir)
    disk = 2 * weights * _BYTES_PER_WEIGHT[precision] + 2**26
    memory = weights * _MEMORY_PER_WEIGHT.get(precision, 0.0) + 2**29
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    for what, needed, there in (("disk", disk, shutil.disk_usage(parent).free), ("memory", memory, available_bytes())):
        if needed > there:
            raise ModelUnusable(
                f"exporting {weights / 1e6:,.0f} million weights to {precision} needs about {needed / 2**30:.1f} GiB of {what}, "
                f"and {there / 2**30:.1f} GiB are free"
            )


def _build(model_dir: Path, form: str, precision: str, block: int, target: Path) -> None:
    """Write the form into a folder beside `target`, with its manifest, and rename that to `target`."""
    scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    logger.info("exporting %s to %s %s, once; later starts use the cache", model_dir.name, form, precision)
    try:
        if form == "onnx":
            _build_onnx(model_dir, precision, block, scratch)
        else:
            _build_gguf(model_dir, precision, scratch / "out")
        shutil.copy(model_dir / "config.json", scratch / "out")
        manifest.write(scratch / "out", {"format": form, "precision": precision, "builder": _builder_version(form)})
        os.replace(scratch / "out", target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build_onnx(model_dir: Path, precision: str, block: int, scratch: Path) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", str(model_dir), "-o", str(scratch / "out"), "-p", precision, "-e", "cpu", "-c", str(scratch / "cache")]
    command += ["--extra_options", *_BUILDER_OPTIONS, *([] if block == USUAL_BLOCK else [f"block_size={block}"])]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode != 0 or not (scratch / "out" / "model.onnx").exists():
        logger.error("the ONNX export failed:\n%s", result.stderr)
        raise ModelUnusable(
            f"the export to ONNX {precision} failed with status {result.returncode}; the replica's log has the output"
        )
    from serve_app.models.onnx_graph import adapt  # slow to import, and needed for an export only

    try:
        adapt(scratch / "out" / "model.onnx")
    except LookupError as error:
        writer = f"onnxruntime-genai {_builder_version('onnx')}"
        raise ModelUnusable(f"{writer} writes another graph than this version of phi-serve knows: {error}") from error


def _build_gguf(model_dir: Path, precision: str, folder: Path) -> None:
    from serve_app.models.gguf import FILE, write_gguf  # for an export only, as the builder is

    folder.mkdir()
    write_gguf(model_dir, precision, folder / FILE)
    for name in ("tokenizer.json", "generation_config.json"):
        if (model_dir / name).exists():
            shutil.copy(model_dir / name, folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel frees it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fingerprint(model_dir: Path, form: str) -> str:
    """Hash everything that the exported form depends on: the files it reads, what writes it and how."""
    digest = hashlib.blake2b(digest_size=8)
    options = f"{_BUILDER_OPTIONS};{_GRAPH_FORM}" if form == "onnx" else _GGUF_FORM
    digest.update(f"{_builder_version(form)};{options};".encode())
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


_BUILDERS = {"onnx": ("onnxruntime-genai", "onnxruntime-genai-cuda"), "gguf": ("gguf",)}


def _builder_version(form: str) -> str:
    for name in _BUILDERS[form]:
        with suppress(PackageNotFoundError):
            return version(name)
    raise ModelUnusable(f"{_BUILDERS[form][0]} is not installed; install the cpu or gpu extra")
