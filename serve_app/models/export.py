"""Derives the ONNX form of a model and keeps it in a cache folder.

The cache is keyed by the source's content, so another model or precision never meets a stale file; several replicas that start at
once export once. Needs onnxruntime-genai's builder only when the cache is empty.
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

from serve_app.config import FakeSettings, OnnxSettings, VllmSettings
from serve_app.errors import EngineDead

logger = logging.getLogger(__name__)

_BUILDER_OPTIONS = ("prune_lm_head=true", "shared_embeddings=true", "accuracy_level=4")


def cache_dir() -> Path:
    """Return the folder for derived files: $PHI_SERVE_CACHE, else phi-serve under the user's cache."""
    configured = os.environ.get("PHI_SERVE_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phi-serve"


def derive(model_dir: Path, settings: VllmSettings | OnnxSettings | FakeSettings) -> Path:
    """Return the folder that the engine of `settings` loads: `model_dir` itself or a form derived from it."""
    return export_onnx(model_dir, settings.precision) if isinstance(settings, OnnxSettings) else model_dir


def export_onnx(model_dir: Path, precision: str) -> Path:
    """Return the folder with `model.onnx` in `precision` (fp32, int8 or int4), exporting it first if needed.

    Raises `EngineDead` when the export fails, with its output in the log; nothing half-written stays behind.
    """
    target = cache_dir() / "onnx" / f"{_fingerprint(model_dir)}-{precision}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not target.exists():
            _build(model_dir, precision, target)
    return target


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
        shutil.copy(model_dir / "config.json", scratch / "out")
        os.replace(scratch / "out", target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel frees it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fingerprint(model_dir: Path) -> str:
    """Hash everything that the exported form depends on: the files it reads, the builder and its options."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{_builder_version()};{_BUILDER_OPTIONS};".encode())
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
