"""Writes the folder that the encoder's engine loads: graph, data file, and the small files of the model."""

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from serve_app.files.encoder_folder import COPIED, EncoderFolder
from serve_app.models.encoder_export.architecture import EncoderCheckpoint, read_shape

ENCODER_EXPORT_FORMAT = "1"
"""Part of the cache key; change it whenever graph or weights change, so that older caches are not used."""


def write_encoder(model_dir: Path, folder: Path, report: Callable[[float], None]) -> None:
    """Write the form into the empty `folder`; `report` gets the fraction done.

    Raises `ModelUnusable` naming the file, the key or the tensor that cannot be used, and `OSError` when the disk is full.
    """
    from serve_app.models.encoder_export.graph import save_graph  # takes half a second, needed only for an export

    about = EncoderFolder.read(model_dir)
    shape = read_shape(about.config)
    save_graph(folder, shape, EncoderCheckpoint(model_dir, shape), version("phi-serve"), report)
    for pattern in COPIED:
        for file in model_dir.glob(pattern):
            target = folder / file.relative_to(model_dir)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)


def count_encoder_weights(model_dir: Path) -> int:
    """Return the number of weights that `write_encoder` writes."""
    return read_shape(EncoderFolder.read(model_dir).config).weights
