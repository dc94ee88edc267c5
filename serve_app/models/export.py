"""Exports the ONNX, GGUF and encoder forms of a model and keeps them in a cache folder.

The source's content is the cache's key, so no model or precision gets a stale file. Several replicas that start at once export
once. Needs onnxruntime's kernels or the gguf package only for an export.
"""

import hashlib
import logging
import math
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from serve_app.chat.vocabulary import read_vocabulary
from serve_app.engine_config import EngineSettings, FakeSettings, LlamaCppSettings, OnnxEncoderSettings, OnnxSettings
from serve_app.errors import ModelUnusable
from serve_app.files.cache import (
    Progress,
    cache_dir,
    ignore_progress,
    read_content,
    translate_disk_errors,
    write_cached_folder,
    write_folder,
)
from serve_app.files.encoder_folder import find_graph
from serve_app.files.names import GGUF_FILE
from serve_app.memory import read_available_bytes
from serve_app.models import manifest
from serve_app.models.checkpoint import Checkpoint, count_weights, require_rows
from serve_app.models.encoder_export.folder import ENCODER_EXPORT_FORMAT, count_encoder_weights, write_encoder
from serve_app.models.onnx_export.folder import ONNX_EXPORT_FORMAT, plan_onnx, write_onnx

logger = logging.getLogger(__name__)

_GGUF_FORMAT = "stray bytes in the private use area"
"""Part of the cache key; change it whenever the file's content changes."""
DEFAULT_BLOCK_SIZE = 32
"""Weights that share a scale by default: the finest choice, and the usual one of published models."""

ENCODER_FORM = "encoder"
"""The form of an embedding model."""
_READING = "reading the model's files"


def needs_checkpoint(settings: EngineSettings) -> bool:
    """Return whether the engine of `settings` needs the model's own weights, because no exported form is configured."""
    match settings:
        case FakeSettings() | LlamaCppSettings(gguf=str()):
            return False
        case OnnxSettings() | LlamaCppSettings() | OnnxEncoderSettings():
            return settings.exported is None
    return True


def derive(model_dir: Path, settings: EngineSettings, progress: Progress = ignore_progress) -> Path:
    """Return the folder that the engine of `settings` loads: `model_dir` itself or a form derived from it.

    Takes minutes when the form must be exported; `progress` is called meanwhile.
    """
    if isinstance(settings, OnnxEncoderSettings):
        return _derive_encoder(model_dir, settings, progress)
    if not isinstance(settings, FakeSettings):
        read_vocabulary(model_dir)  # checks files against each other that exported folders do not contain
    if needs_checkpoint(settings):
        require_rows(model_dir)
    match settings:
        case OnnxSettings():
            form = "onnx"
        case LlamaCppSettings(gguf=str() as named):
            from serve_app.models import gguf_respelling  # only for files of other converters

            file = Path(named).expanduser()
            return gguf_respelling.prepare(file, model_dir, progress)
        case LlamaCppSettings():
            form = "gguf"
        case _:
            return model_dir
    if settings.exported is None:
        block = settings.block_size if isinstance(settings, OnnxSettings) and settings.precision != "fp32" else DEFAULT_BLOCK_SIZE
        return export_to_cache(model_dir, form, settings.precision, block, progress)
    folder = Path(settings.exported).expanduser()
    if isinstance(settings, OnnxSettings) and not (folder / manifest.NAME).exists():
        from serve_app.models.builder_folder import prepare  # slow to import, needed only here

        return prepare(model_dir, folder, settings, progress)
    about = manifest.verify(folder)
    for wanted, key in ((form, "format"), (settings.precision, "precision")):
        if about.get(key) != wanted:
            raise ModelUnusable(f"the folder under `exported` holds {about.get(key)} weights, but {key} is {wanted}")
    return folder


def _derive_encoder(model_dir: Path, settings: OnnxEncoderSettings, progress: Progress) -> Path:
    """Return a folder with the graph of an encoder; one that another program wrote is used as it is."""
    if settings.exported is None:
        return model_dir if find_graph(model_dir) else export_to_cache(model_dir, ENCODER_FORM, "fp32", progress=progress)
    folder = Path(settings.exported).expanduser()
    if (folder / manifest.NAME).exists():
        manifest.verify(folder)
    if find_graph(folder) is None:
        raise ModelUnusable("the folder under `exported` has neither model.onnx nor onnx/model.onnx; export the model again")
    return folder


def export_to_cache(
    model_dir: Path, form: str, precision: str, block: int = DEFAULT_BLOCK_SIZE, progress: Progress = ignore_progress
) -> Path:
    """Return the cached folder with the model's `form` (onnx, gguf or encoder) in `precision`, exporting it first if needed.

    Raises `ModelUnusable` as `export_to_folder` does; nothing half-written stays behind.
    """
    coarser = "" if block == DEFAULT_BLOCK_SIZE else f"-{block}"
    progress(_READING, 0.0)
    return write_cached_folder(
        cache_dir() / form / f"{_fingerprint(model_dir, form, progress)}-{precision}{coarser}",
        f"exporting {precision}",
        lambda folder: _write(model_dir, form, precision, block, folder, progress=progress),
        is_whole=partial(_is_whole, progress=progress),
        on_wait=lambda: progress("waiting for another replica's export", 0.0),
    )


def _is_whole(target: Path, progress: Progress) -> bool:
    """Return whether the folder exists and is undamaged."""
    if not target.exists():
        return False
    progress("checking the exported files", 0.0)
    return manifest.is_whole(target)


def export_to_folder(
    model_dir: Path,
    form: str,
    precision: str,
    target: Path,
    block: int = DEFAULT_BLOCK_SIZE,
    *,
    progress: Progress = ignore_progress,
) -> None:
    """Export to the new folder `target`, whole or not at all; `block` weights of a quantized graph share a scale.

    Raises `ModelUnusable` when `target` exists, when disk or memory cannot hold the export, or when it fails.
    """
    if target.exists():
        raise ModelUnusable(f"{target.name} exists already; give a new folder")
    with translate_disk_errors(f"exporting {precision}"):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_folder(target, lambda folder: _write(model_dir, form, precision, block, folder, progress=progress))


_GGUF_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes per weight of a GGUF file."""
_GGUF_FINER = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors that are q8_0 with q4_0."""
_SMALL_FILES_BYTES = 2**26
"""Upper bound of graph, tokenizer and manifest."""
_WORKING_BYTES = 2**29
"""Memory of an export without the largest matrix that it must transpose: the libraries and a few pieces of weights."""


def require_resources(model_dir: Path, form: str, precision: str, block: int, folder: Path) -> None:
    """Raise `ModelUnusable` with the arithmetic when the export cannot fit the disk of `folder` or the memory.

    The export is written once, in a folder beside the target that is then renamed, so no second copy is needed.
    """
    weights = count_weights(model_dir)
    disk, memory = _SMALL_FILES_BYTES, _WORKING_BYTES
    if form == ENCODER_FORM:
        disk += 4 * count_encoder_weights(model_dir)
    elif form == "onnx":
        layout = plan_onnx(model_dir, precision, block)
        disk, memory = disk + layout.bytes, memory + 2 * layout.transposed_bytes
    else:
        tensors = Checkpoint(model_dir).tensors
        finer = sum(math.prod(tensors[name].shape) for name in _GGUF_FINER if name in tensors) if precision == "q4_0" else 0
        disk += int((weights - finer) * _GGUF_BYTES[precision] + finer * _GGUF_BYTES["q8_0"])
    for what, needed, there in (("disk", disk, shutil.disk_usage(folder).free), ("memory", memory, read_available_bytes())):
        if needed > there:
            raise ModelUnusable(
                f"exporting {weights / 1e6:,.0f} million weights to {precision} needs about {needed / 2**30:.1f} GiB of {what}, "
                f"and {there / 2**30:.1f} GiB are free"
            )


def _write(model_dir: Path, form: str, precision: str, block: int, folder: Path, *, progress: Progress) -> None:
    """Write the form and its manifest into the empty `folder`."""
    work = f"exporting {precision}"
    progress(work, 0.0)
    require_resources(model_dir, form, precision, block, folder)
    logger.info("exporting %s to %s %s, once; later starts use the cache", model_dir.name, form, precision)
    if form == ENCODER_FORM:
        write_encoder(model_dir, folder, lambda done: progress(work, done))
    elif form == "onnx":
        write_onnx(model_dir, precision, block, folder, lambda done: progress(work, done))
    else:
        _write_gguf_folder(model_dir, precision, folder, lambda done: progress(work, done))
    shutil.copyfile(model_dir / "config.json", folder / "config.json")
    progress("checking the exported files", 0.0)
    manifest.write(folder, {"format": form, "precision": precision, "writer": f"phi-serve {version('phi-serve')}"})


def _write_gguf_folder(model_dir: Path, precision: str, folder: Path, report: Callable[[float], None]) -> None:
    from serve_app.models.gguf import write_gguf  # only for an export

    write_gguf(model_dir, precision, folder / GGUF_FILE, report)
    for name in ("tokenizer.json", "generation_config.json"):
        if (model_dir / name).exists():
            shutil.copy(model_dir / name, folder)


def _fingerprint(model_dir: Path, form: str, progress: Progress = ignore_progress) -> str:
    """Return a hash of everything that the exported form depends on: the files it reads, and the format it is written in."""
    digest = hashlib.blake2b(digest_size=8)
    format = {"onnx": ONNX_EXPORT_FORMAT, ENCODER_FORM: ENCODER_EXPORT_FORMAT}.get(form, _GGUF_FORMAT)
    digest.update(f"phi-serve {form} {format};".encode())
    files = sorted(file for file in model_dir.iterdir() if file.suffix in {".json", ".jinja", ".safetensors"})
    if form == ENCODER_FORM:
        files += sorted(model_dir.glob("*_Pooling/config.json"))
    done, total = 0, sum(file.stat().st_size for file in files)
    for file in files:
        content = hashlib.blake2b()
        for piece in read_content(file):
            content.update(piece)
            done += len(piece)
            progress(_READING, done / total)
        digest.update(f"{file.name}:{content.hexdigest()};".encode())
    return digest.hexdigest()
