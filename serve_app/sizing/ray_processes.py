"""Memory of Ray's own processes and of the ingress: constants, measured as proportional set sizes of Ray 2.60. Pure."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from serve_app.errors import ModelUnusable
from serve_app.files.encoder_folder import read_size
from serve_app.sizing.shape import ModelFiles

_MIB = 1 << 20
HEAD: Mapping[str, int] = MappingProxyType(
    {
        "gcs": 50 * _MIB,
        "autoscaler": 50 * _MIB,
        "dashboard": 290 * _MIB,  # with the eleven processes that it starts
        "serve controller": 92 * _MIB,
        "serve run": 89 * _MIB,
    }
)
"""Processes of the first node."""
NODE: Mapping[str, int] = MappingProxyType({"raylet": 33 * _MIB, "agents": 180 * _MIB, "proxy": 92 * _MIB})
"""Processes of every node; the proxy is there with `proxy_location: EveryNode`."""
_INGRESS_BYTES = 150 * 10**6
_TOKEN_BYTES = 1400
"""Tables of the tokenizer and of the check of constraints, for each row of a model's vocabulary."""


def estimate_ingress_bytes(models: Iterable[ModelFiles]) -> float:
    """Return the memory of an ingress, which has the tokenizer of every model."""
    return _INGRESS_BYTES + float(sum(_TOKEN_BYTES * _read_vocabulary(model) for model in models))


def _read_vocabulary(model: ModelFiles) -> int:
    try:
        return read_size(model.config, "vocab_size")
    except ModelUnusable:  # its group says what is wrong with it
        return 0
