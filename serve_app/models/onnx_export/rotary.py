"""Computes the tables of cosines and sines that the graph rotates queries and keys with. Knows neither graph nor files."""

import numpy as np
from numpy.typing import NDArray

from serve_app.models.onnx_export.decoder import Rotary
from serve_app.models.rope import compute_periods


def tabulate(rotary: Rotary) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines (positions, dimensions / 2) in float32, the attention's scale included.

    Frequencies and angles are rounded to float32 as PyTorch computes them; cosine and sine are then the float32 nearest to the
    exact value, which PyTorch's are not on every processor.
    """
    periods = compute_periods(rotary.theta, rotary.dimensions)
    if rotary.factors is not None:
        periods = np.asarray(rotary.factors, np.float32) * periods
    angles = np.outer(np.arange(rotary.positions, dtype=np.float32), np.float32(1) / periods).astype(np.float64)
    scale = np.float32(rotary.scale)
    return np.cos(angles).astype(np.float32) * scale, np.sin(angles).astype(np.float32) * scale
