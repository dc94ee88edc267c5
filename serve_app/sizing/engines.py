"""What one replica of each kind of engine takes, from its model's sizes and its settings. Knows no Ray.

Formulas follow the engines' own allocation, which each function names. Constants were measured with `python -m benchmarks.memory`
(docs/performance.md, Memory of a replica).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from serve_app.engine_config import (
    EngineSettings,
    FakeSettings,
    LlamaCppSettings,
    OnnxEncoderSettings,
    OnnxSettings,
    VllmSettings,
    count_gpu_layers,
)
from serve_app.models.architectures import has_tied_embeddings
from serve_app.sizing.shape import DecoderShape, ModelFiles, read_decoder_shape, read_encoder_sizes

_MB = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a kind of engine takes whatever the model, and for each entry of its vocabulary."""

    base_bytes: float
    """Interpreter and libraries of a process alone on the machine. Within Ray a replica has more of its own and shares libraries
    with other processes, which is about the same."""
    token_bytes: float
    """Tables of the tokenizer and of constraints, for each row of the vocabulary."""
    start_s: float
    """Seconds of imports and of the engine's own start."""
    token_start_s: float
    """Seconds for each row of the vocabulary: the tables, and the first constraint."""


RUNTIMES: Mapping[str, Runtime] = MappingProxyType(
    {
        "vllm": Runtime(base_bytes=1485 * _MB, token_bytes=6600, start_s=30, token_start_s=1e-4),
        "onnx": Runtime(base_bytes=160 * _MB, token_bytes=1350, start_s=1, token_start_s=25e-6),
        "llama_cpp": Runtime(base_bytes=140 * _MB, token_bytes=1500, start_s=1, token_start_s=35e-6),
        "onnx_encoder": Runtime(base_bytes=140 * _MB, token_bytes=0, start_s=1, token_start_s=0),
        "fake": Runtime(base_bytes=70 * _MB, token_bytes=0, start_s=0, token_start_s=0),
    }
)
"""By the engine's kind; measured with vocabularies of 2,048 and 200,064."""
_WORKER_START_S = 8.0
"""Seconds until Ray has started a replica's process and it has imported the application."""
_LOAD_BYTES_PER_S = 500 * _MB
"""Reading weights from a disk and bringing them into the engine's form."""
_EXPORT_WEIGHTS_PER_S = MappingProxyType({"onnx": 20 * _MB, "gguf": 40 * _MB})
"""Weights a second that an export converts with one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSize:
    """Memory and start of one replica."""

    weights_bytes: float = 0.0
    """Weights as the engine holds them."""
    kv_bytes: float = 0.0
    """KV cache when all of it is used."""
    runtime_bytes: float = 0.0
    """Interpreter, libraries, tables of the vocabulary."""
    buffers_bytes: float = 0.0
    """What the engine allocates to compute a step."""
    gpu_bytes: float = 0.0
    """Least memory of each GPU."""
    exported_bytes: float = 0.0
    """Bytes on disk of the form that the first start derives from the checkpoint."""
    start_s: float = 0.0
    """Estimate of the seconds until it is ready."""
    export_s: float = 0.0
    """Estimate of what the first start takes longer."""
    note: str = ""
    """What the numbers do not say."""
    files: ModelFiles = field(default_factory=lambda: ModelFiles(config=MappingProxyType({}), folder=None))
    """The model's, from which the sizes come."""

    @property
    def other_bytes(self) -> float:
        """Everything but weights and KV cache."""
        return self.runtime_bytes + self.buffers_bytes

    @property
    def total_bytes(self) -> float:
        """Main memory."""
        return self.weights_bytes + self.kv_bytes + self.other_bytes


def estimate_replica(settings: EngineSettings, files: ModelFiles) -> ReplicaSize:
    """Return what a replica takes; raises `ModelUnusable` where the model's files do not give its sizes."""
    if isinstance(settings, FakeSettings):
        size, vocabulary, loaded = ReplicaSize(), 0, 0.0
    elif isinstance(settings, OnnxEncoderSettings):
        size, vocabulary = _estimate_encoder(settings, files), 0
        loaded = size.weights_bytes
    else:
        shape = read_decoder_shape(files.config)
        vocabulary = shape.vocabulary
        size = _ESTIMATES[settings.kind](settings, shape)
        loaded = size.weights_bytes + size.gpu_bytes
    runtime = RUNTIMES[settings.kind]
    return replace(
        size,
        files=files,
        runtime_bytes=runtime.base_bytes + runtime.token_bytes * vocabulary,
        start_s=_WORKER_START_S + runtime.start_s + runtime.token_start_s * vocabulary + loaded / _LOAD_BYTES_PER_S,
    )


_VLLM_DTYPES = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2})
_VLLM_QUANTIZED = MappingProxyType({"awq": 0.56, "gptq": 0.56, "fp8": 1.0, "compressed-tensors": 1.0})
"""Bytes of a quantized weight with its scales: four bits in groups of 128 for the first two, eight for the others."""
_VLLM_LEAST_STEP = 2048
"""`_MIN_STEP_TOKENS` of serve_app/engines/vllm/engine.py."""


def _estimate_vllm(settings: VllmSettings, shape: DecoderShape) -> ReplicaSize:
    """Weights in `dtype`; on CPUs a cache of `kv_cache_gib`, as `_build_engine_args` in engines/vllm/engine.py asks for.

    On CPUs vLLM packs every matrix for its product, and keeps the original of embedding and head beside it
    (`dispatch_cpu_unquantized_gemm` in its model_executor/layers/utils.py, with `remove_weight=False`), so these count twice.
    Prompts are computed whole there, so a step has up to max(2048, max_model_len) tokens: the widest activations are those between
    the two products of the MLP. On a GPU the cache is what `gpu_memory_utilization` leaves; one context is the least.
    """
    width = _VLLM_DTYPES[settings.dtype]
    per_weight = _VLLM_QUANTIZED.get(settings.quantization or "", float(width))
    rows = shape.vocabulary * shape.hidden * (1 if has_tied_embeddings(shape.weights.config) else 2)
    weights = (shape.weights.parameters - rows) * per_weight + rows * width
    if settings.device == "cuda":
        least = weights / settings.tensor_parallel_size + shape.cached_numbers * width * settings.max_model_len
        note = "memory beside the GPU was measured on CPUs only; the KV cache is what gpu_memory_utilization leaves"
        return ReplicaSize(gpu_bytes=least / settings.gpu_memory_utilization, note=note)
    step = max(_VLLM_LEAST_STEP, settings.max_model_len)
    buffers = step * width * (3 * shape.inner + 2 * shape.hidden) + 4 * settings.max_num_seqs * shape.vocabulary
    return ReplicaSize(weights_bytes=weights + rows * width, kv_bytes=settings.kv_cache_gib * 2**30, buffers_bytes=buffers)


_ONNX_BITS = MappingProxyType({"fp32": 32, "int8": 8, "int4": 4, "int4_mixed": 4})


def _estimate_onnx(settings: OnnxSettings, shape: DecoderShape) -> ReplicaSize:
    """Weights as `plan_layout` in models/onnx_export/layout.py places them; float32 caches as `KvPool` in engines/onnx/kv_pool.py.

    onnxruntime packs the head for its product; where it is the table of embeddings too, the original stays and counts as well. The
    pool's spare slot is never full. A chunk of a prompt needs the scores of all its heads over the longest context, and `Graph` in
    engines/onnx/graph.py a buffer of logits for each number of rows.
    """
    stored, head = _size_onnx(settings, shape)
    caches = 4.0 * shape.cached_numbers * settings.max_model_len * settings.slots
    scores = 4.0 * shape.heads * settings.prefill_chunk * settings.max_model_len
    rows = (settings.slots + 1) * (settings.slots + 2) / 2 + 2 * settings.slots + settings.ngram_speculation
    buffers = _ONNX_SCRATCH * scores + 4.0 * rows * shape.vocabulary + 16.0 * settings.prefill_chunk * shape.inner
    on_gpu = count_gpu_layers(settings) != 0
    size = ReplicaSize(weights_bytes=stored + head, kv_bytes=caches, buffers_bytes=buffers)
    if on_gpu:
        size = replace(size, weights_bytes=0.0, gpu_bytes=stored + head, note="memory of the GPU was not measured")
    if settings.exported is not None:
        return size
    export_s = shape.weights.parameters / _EXPORT_WEIGHTS_PER_S["onnx"]
    return replace(size, exported_bytes=stored, export_s=export_s)


_ONNX_SCRATCH = 2.5
"""Copies of the scores that onnxruntime's arena holds: it grows by powers of two."""


def _size_onnx(settings: OnnxSettings, shape: DecoderShape) -> tuple[float, float]:
    """Return the bytes of the data file, and those of the head within it that is the table of embeddings as well."""
    tied = has_tied_embeddings(shape.weights.config)
    is_shared = tied and settings.precision != "int8"  # with int8 weights the table of embeddings is one of its own, in float32
    if settings.exported is not None and (file := _sum_files(settings.exported, ("*.data", "*.onnx"))):
        share = shape.vocabulary * shape.hidden / shape.weights.parameters
        return file, file * share if is_shared else 0.0
    bits = _ONNX_BITS[settings.precision]
    raised = 8 if settings.precision == "int4_mixed" else bits
    scale = 0.0 if bits == 32 else 4.0 / settings.block_size
    table = float(shape.vocabulary * shape.hidden)
    finer = float(shape.layers * shape.hidden * shape.inner)
    rest = shape.weights.parameters - table * (1 if tied else 2) - finer
    head = table * (raised / 8 + scale)
    embedding = 0.0 if is_shared else 4.0 * table
    return rest * (bits / 8 + scale) + finer * (raised / 8 + scale) + head + embedding, head if is_shared else 0.0


_GGUF_BYTES = MappingProxyType({"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32})
_REPACKED = frozenset({"q4_0"})
"""Types that llama.cpp keeps a second time, in the order of the processor's instructions."""


def _estimate_llama_cpp(settings: LlamaCppSettings, shape: DecoderShape) -> ReplicaSize:
    """The mapped file, as models/gguf.py writes it; a cache for all slots: `_build_params` in engines/llama_cpp/server.py.

    The cache is in f32 with f32 weights, else in f16 (`choose_kv_type`). Without flash attention a step needs the scores of all
    heads over the longest context.
    """
    parameters, table = shape.weights.parameters, shape.vocabulary * shape.hidden
    rows = table * (1 if has_tied_embeddings(shape.weights.config) else 2)
    per_weight = _GGUF_BYTES[settings.precision]
    stored = (parameters - rows) * per_weight + rows * (_GGUF_BYTES["q8_0"] if settings.precision == "q4_0" else per_weight)
    copied = (parameters - rows) * per_weight if settings.precision in _REPACKED else 0.0
    named = settings.gguf or settings.exported
    if named is not None and (file := _sum_files(named, ("*.gguf",))):
        stored, copied = file, copied * file / stored
    kind = settings.kv_cache_type or ("f32" if settings.precision == "f32" and settings.gguf is None else "f16")
    caches = _GGUF_BYTES[kind] * shape.cached_numbers * settings.max_model_len * settings.slots
    scores = 0.0 if settings.flash_attention else 4.0 * shape.heads * settings.prefill_chunk * settings.max_model_len
    buffers = scores + 4.0 * settings.prefill_chunk * (2 * shape.inner + 4 * shape.hidden)
    size = ReplicaSize(weights_bytes=stored + copied, kv_bytes=caches, buffers_bytes=buffers)
    layers = count_gpu_layers(settings)
    if layers != 0:
        share = 1.0 if layers is None else min(1.0, layers / shape.layers)
        size = replace(
            size,
            weights_bytes=(1 - share) * size.weights_bytes,
            kv_bytes=(1 - share) * caches,
            gpu_bytes=share * (stored + caches) + buffers,
            note="memory of the GPU was not measured",
        )
    if named is not None:
        return size
    return replace(size, exported_bytes=stored, export_s=parameters / _EXPORT_WEIGHTS_PER_S["gguf"])


def _estimate_encoder(settings: OnnxEncoderSettings, files: ModelFiles) -> ReplicaSize:
    """Float32 weights, and the activations of one batch: `EncoderGraph.run` in engines/encoder/graph.py.

    A batch has at most `max_batch_tokens` tokens, or one longer input; its attention needs the scores of all heads.
    """
    sizes = read_encoder_sizes(files)
    longest = min(settings.max_model_len, sizes.longest)
    tokens = max(settings.max_batch_tokens, longest)
    buffers = 4.0 * (_ENCODER_SCRATCH * sizes.heads * tokens * longest + tokens * (sizes.inner + 6 * sizes.hidden))
    size = ReplicaSize(weights_bytes=4.0 * sizes.parameters, buffers_bytes=buffers)
    if settings.provider == "cuda":
        return replace(
            size, weights_bytes=0.0, gpu_bytes=4.0 * sizes.parameters + buffers, note="memory of the GPU was not measured"
        )
    return size


_ENCODER_SCRATCH = 2.0
_ESTIMATES: Mapping[str, Callable[[Any, DecoderShape], ReplicaSize]] = MappingProxyType(
    {"vllm": _estimate_vllm, "onnx": _estimate_onnx, "llama_cpp": _estimate_llama_cpp}
)


def _sum_files(path: str, patterns: tuple[str, ...]) -> float:
    """Return the bytes of a file, or of a folder's files of these patterns; 0 where there is none."""
    place = Path(path).expanduser()
    if place.is_file():
        return float(place.stat().st_size)
    found = {file for pattern in patterns for file in place.glob(pattern)} if place.is_dir() else set()
    return float(math.fsum(file.stat().st_size for file in found))
