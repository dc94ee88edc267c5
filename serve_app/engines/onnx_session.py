"""Opens graphs in onnxruntime for the engines that run on it. Knows no inputs and outputs."""

import logging
from pathlib import Path

import onnxruntime as ort

from serve_app.errors import ModelUnusable
from serve_app.files.onnx_files import read_files

logger = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(folder: Path, filename: str, *, provider: str, threads: int, spinning: bool = False) -> ort.InferenceSession:
    """Load the graph once its files are known to be in the folder; threads wait for work busily when `spinning`.

    Raises `ModelUnusable` when the provider is not installed, or with onnxruntime's reason.
    """
    name = _PROVIDERS[provider]
    if name not in ort.get_available_providers():
        have = ", ".join(ort.get_available_providers())
        raise ModelUnusable(f"onnxruntime has no {name} (it has {have}). Install the gpu extra or set provider: cpu.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Where replicas share cores a spinning thread takes the neighbour's time slice.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    read_files(folder, filename)
    try:
        return ort.InferenceSession(str(folder / filename), options, providers=[name])
    except Exception as error:  # onnxruntime's exceptions have no class in common
        logger.exception("onnxruntime cannot load %s", filename)
        reason = str(error).replace(f"{folder}/", "").partition("\n")[0][:300]
        raise ModelUnusable(f"onnxruntime {ort.__version__} cannot load {filename}: {reason}") from error
