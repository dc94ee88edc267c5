"""Rounds rows of weights to blocks of four or eight bits with onnxruntime's own kernel, as its builder does.

The only module outside the engines that imports onnxruntime, and only during an export. Knows no files and no graph.
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ModelUnusable


def quantize_rows(weights: NDArray[np.float32], bits: int, block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round weights (N, K) to `bits` with one scale for each `block` of a row; return codes and scales.

    Codes are (N, blocks, block * bits / 8), two to a byte with four bits, the lower half first, and stand for
    (code - 2 ** (bits - 1)) * scale. Scales are (N, blocks) and have a sign. The last block is filled with zeros.
    Raises `ModelUnusable` when onnxruntime is not installed.
    """
    try:
        from onnxruntime.capi import _pybind_state as kernels  # takes a second, needed only for an export
    except ImportError as error:
        raise ModelUnusable("the ONNX export needs onnxruntime; install the cpu or the gpu extra") from error

    rows, columns = weights.shape
    blocks = -(-columns // block)
    across = np.zeros((blocks * block, rows), np.float32)
    across[:columns] = weights.T
    codes = np.zeros((rows, blocks, block * bits // 8), np.uint8)
    scales = np.zeros((rows, blocks), np.float32)
    unused = np.zeros((rows, -(-blocks * bits // 8)), np.uint8)
    kernel = kernels.quantize_matmul_8bits if bits == 8 else kernels.quantize_matmul_4bits
    kernel(codes, across, scales, unused, block, rows, columns, True)
    return codes, scales
