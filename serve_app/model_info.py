"""What clients may learn about a model. Plain values: no catalog, engine or dialect."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.config import VariantSettings
from serve_app.types import EngineKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGroup:
    """A ready group, and the weights that it holds."""

    group: str
    model: str
    """The own name of the model that it serves."""
    engine: EngineKind
    precision: str
    replicas: int
    context_length: int
    weight_bytes: int
    """Bytes of the weights in all of its replicas."""
    gpu_bytes: int
    """Bytes of these weights in GPU memory."""
    memory_bytes: int | None = None
    """Proportional set size of its replicas' processes; None until it is measured."""
    kv_tokens: int | None = None
    """Tokens that their KV caches hold together; None where they have none."""
    kv_used_tokens: int | None = None
    """Tokens in them now; None where that is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A name that clients may use, and its model."""

    name: str
    root: str
    """The served model's own name."""
    parent: str
    """The name it was derived from; empty for a served model and its aliases."""
    settings: VariantSettings
    """Prompts and parameters that the name adds to the model."""
    created: float
    """Unix seconds at which the application started."""
    modified: float
    """Unix seconds."""
    weights_identity: str
    """SHA-256 over the model's configuration and tokenizer."""
    template: str
    """The prompt template in Ollama's language: the name's own, else the model's."""
    capabilities: tuple[str, ...]
    """In Ollama's words: `completion`, `tools`, `thinking`."""
    context_length: int
    """Most tokens of prompt and answer together that a group takes."""
    config: Mapping[str, Any]
    """The model's config.json."""
    family: str
    parameters: int
    """Number of weights."""
    parameter_size: str
    """The same with a unit, as in 3.8B."""
    stored_precision: str
    """The checkpoint's number format."""
    stored_bytes: int
    """Size of the checkpoint's weights."""

    @property
    def digest(self) -> str:
        """SHA-256 over weights and settings, computed anew at each call; equal for aliases of a served model."""
        added = self.settings.model_dump(mode="json", exclude={"parent"})
        return hashlib.sha256(json.dumps([self.weights_identity, added], sort_keys=True).encode()).hexdigest()
