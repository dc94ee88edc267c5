"""Settings of engine groups, one class per kind: `args.engines` of serve_config.yaml. Knows no engine and no Ray."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.types import EngineKind


class Settings(BaseModel):
    """Base of every settings object: strict about names, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class GroupSettings(Settings):
    """Settings of every engine group."""

    model: str | None = None
    """The name, under `models`, of the model that the group serves; None: the first one."""
    max_model_len: int = Field(4096, ge=16)
    """Context in tokens: prompt and answer together."""
    threads: int | None = Field(None, ge=1)
    """Threads of one replica on CPUs; None: the replica's num_cpus, one at least."""


class VllmSettings(GroupSettings):
    """A vLLM group, on GPUs or CPUs."""

    kind: Literal[EngineKind.VLLM] = EngineKind.VLLM
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of the computation; must match the installed wheel (extra `cpu` or `gpu`)."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Weights and activations. float32 is the fastest on CPUs without AMX or AVX512-BF16."""
    max_model_len: int = Field(4096, ge=16)
    """Context in tokens. Above 4,096 vLLM switches LongRoPE to its long factors for every request."""
    max_num_seqs: int = Field(8, ge=1)
    """Sequences computed together; more wait in vLLM's queue."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    """Fraction of GPU memory for weights and KV cache; without effect on CPUs."""
    kv_cache_gib: float = Field(0.25, gt=0)
    """KV cache in GiB on CPUs; without effect on GPUs."""
    quantization: str | None = None
    """vLLM's name of the method the checkpoint was quantized with, e.g. awq, gptq, fp8."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs per replica."""
    enforce_eager: bool = True
    """Skip torch.compile and CUDA graphs: faster start, slower decoding on GPUs."""
    ngram_speculation: int = Field(0, ge=0, le=16)
    """Tokens drafted per step by prompt lookup; 0 is off."""
    health_timeout_s: float = Field(30.0, gt=0)
    """A core that answers no probe for this long counts as hung."""


class OnnxSettings(GroupSettings):
    """An ONNX Runtime group with continuous batching."""

    kind: Literal[EngineKind.ONNX] = EngineKind.ONNX
    precision: Literal["fp32", "int8", "int4", "int4_mixed"] = "fp32"
    """Weights of the exported graph. int4_mixed has int8 for every layer's `down_proj` and the head, and int4 elsewhere."""
    block_size: Literal[32, 64, 128, 256] = 32
    """Quantized weights that share a scale. Larger blocks are faster (fewer bytes are read) and less exact. Without effect with
    `exported`."""
    exported: str | None = None
    """A folder that `phi-serve export onnx` or onnxruntime-genai's builder wrote; None: the replica exports at its first start,
    into the cache."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Execution provider; cuda needs the `gpu` extra."""
    max_model_len: int = Field(4096, ge=16)
    """Context in tokens of one slot."""
    slots: int = Field(8, ge=1, le=256)
    """Sequences decoded together; more wait."""
    max_waiting: int = Field(64, ge=0)
    """Requests that may wait for a slot before new ones are refused."""
    prefill_chunk: int = Field(256, ge=2)
    """Most prompt tokens computed between two decoding steps."""
    target_step_s: float = Field(0.1, gt=0)
    """Seconds that a step with a prompt chunk should take: the longest pause that a long prompt causes in running streams."""
    prefix_cache: bool = True
    """Keep the caches of finished sequences while their slots are free, and start new prompts from the longest common prefix."""
    ngram_speculation: int = Field(8, ge=0, le=32)
    """Most tokens drafted per step by prompt lookup for a lone stream, as long as that is faster; 0 is off. It must not change
    greedy answers, so it is off with int8 and int4 weights, where the rounding of a longer chunk moves logits by hundredths."""
    max_kv_gib: float | None = Field(None, gt=0)
    """Bound of the KV pool in GiB; None: the memory that is free at start. A larger pool is refused."""
    spinning: bool = False
    """Let these threads wait busily for work: faster where the replica has its own cores, slower for all replicas where cores
    are shared."""
    batch_invariant: bool = True
    """With int4 weights compute a lone stream as two rows: one row sums in another order, so an answer's logits would change a
    little when other streams start or end. Without it a lone stream is up to a fifth faster."""
    step_timeout_s: float = Field(60.0, gt=0)
    """A step that takes longer than this counts as hung."""


class LlamaCppSettings(GroupSettings):
    """A llama.cpp group: a GGUF file, continuous batching in the embedded server. Ollama's names of the settings in brackets."""

    kind: Literal[EngineKind.LLAMA_CPP] = EngineKind.LLAMA_CPP
    precision: Literal["f32", "f16", "q8_0", "q4_0"] = "q8_0"
    """Weights of the exported file; without effect with `gguf`."""
    exported: str | None = None
    """A folder that `phi-serve export gguf` wrote; None: the replica exports at its first start, into the cache."""
    gguf: str | None = None
    """A GGUF file of another converter, of the model at the model's path, whose weights are then not needed. The first replica on a
    node copies it into the cache with its tokens respelled, unless `phi-serve export gguf` wrote it: see docs/configuration.md."""
    max_model_len: int = Field(4096, ge=16)
    """Context in tokens of one slot (num_ctx). Above the model's original context llama.cpp uses LongRoPE's long factors for
    every request."""
    slots: int = Field(4, ge=1, le=256)
    """Sequences decoded together (OLLAMA_NUM_PARALLEL); more wait."""
    max_waiting: int = Field(64, ge=0)
    """Requests that may wait for a slot before new ones are refused (OLLAMA_MAX_QUEUE)."""
    prefill_chunk: int = Field(256, ge=32, le=4096)
    """Most tokens computed in one step, prompts and running streams together."""
    prefix_cache: bool = True
    """Start a prompt in the slot whose cache has the longest common prefix."""
    flash_attention: bool = False
    """Fused attention (OLLAMA_FLASH_ATTENTION): less memory for long contexts. On CPUs its rounding depends on the other
    streams of a step, so the same seed may give another answer beside them."""
    kv_cache_type: Literal["f32", "f16", "q8_0"] | None = None
    """Numbers in the KV cache (OLLAMA_KV_CACHE_TYPE); None: f32 with f32 weights, else f16. q8_0 needs flash attention."""
    gpu_layers: int = Field(0, ge=-1)
    """Layers computed on the GPU (num_gpu), -1: all; needs a build of xllamacpp for that GPU."""
    threads: int | None = Field(None, ge=1)
    """Threads of one replica (num_thread); None: the replica's num_cpus, one at least."""
    health_timeout_s: float = Field(30.0, gt=0)
    """A server whose loop answers no probe for this long counts as hung."""

    @model_validator(mode="after")
    def _check_choices(self) -> "LlamaCppSettings":
        if self.exported and self.gguf:
            raise ValueError("exported and gguf exclude each other; set one of them")
        if self.kv_cache_type == "q8_0" and not self.flash_attention:
            raise ValueError("kv_cache_type: q8_0 needs flash_attention: true")
        return self


class OnnxEncoderSettings(GroupSettings):
    """An ONNX Runtime group that computes embeddings, with batches of inputs of similar length."""

    kind: Literal[EngineKind.ONNX_ENCODER] = EngineKind.ONNX_ENCODER
    exported: str | None = None
    """A folder that `phi-serve export encoder` wrote, or any other with model.onnx and the model's files. None: the model's own
    folder where it has model.onnx or onnx/model.onnx; else the replica exports at its first start, into the cache."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Execution provider; cuda needs the `gpu` extra."""
    max_model_len: int = Field(512, ge=16)
    """Most tokens of one input, special tokens included; the model's own limit, where it is lower, counts."""
    max_batch_tokens: int = Field(512, ge=16)
    """Tokens computed at once, padding included; an input that is longer is computed alone. On CPUs larger batches are slower; on
    GPUs set 16384 or more."""
    max_waiting: int = Field(8192, ge=0)
    """Inputs that may wait before new requests are refused. A request is taken whole, of whatever size, when none waits."""
    pooling: Literal["mean", "cls"] | None = None
    """How the tokens' vectors become one: their mean, or the first one. None: as the model's 1_Pooling/config.json says, else
    mean."""
    normalize: bool | None = None
    """Scale vectors to the length 1. None: as the model's modules.json says; without that file true."""
    step_timeout_s: float = Field(60.0, gt=0)
    """A batch that takes longer than this counts as hung."""


class FakeReply(Settings):
    """Another answer of a scripted group."""

    when: str = Field(min_length=1)
    """Text, control tokens included, in the prompts that get it."""
    text: str
    """The answer."""


class FakeSettings(GroupSettings):
    """A scripted group for tests and dry runs: no model, real everything else."""

    kind: Literal[EngineKind.FAKE] = EngineKind.FAKE
    text: str = "Hello from the fake engine."
    """The answer to every request that none of `replies` answers."""
    replies: tuple[FakeReply, ...] = ()
    """Answers to certain prompts; the first whose text occurs in the prompt counts."""
    structured: bool = False
    """Whether it takes requests that constrain the answer; the script is trusted to keep to them."""
    tokens_per_second: float = Field(200.0, gt=0)
    """Speed of the answer."""
    load_s: float = Field(0.0, ge=0)
    """Seconds that its start takes."""
    slots: int = Field(8, ge=1)
    """Generations at once."""
    fault: Literal["none", "fail_start", "fail_first", "die_midway", "truncate", "hang"] = "none"
    """The fault: refuse to start, fail before or after some tokens, end without `Finished`, or hang."""
    fault_at: int = Field(2, ge=0)
    """Tokens of an answer after which it dies, truncates or hangs."""


EngineSettings = Annotated[
    VllmSettings | OnnxSettings | LlamaCppSettings | OnnxEncoderSettings | FakeSettings, Field(discriminator="kind")
]
ENCODERS = frozenset({EngineKind.ONNX_ENCODER})
"""The kinds whose groups compute embeddings and generate nothing."""


def count_gpu_layers(settings: EngineSettings) -> int | None:
    """Return the number of the model's layers that a group computes on GPUs; None: the whole model."""
    if isinstance(settings, LlamaCppSettings):
        return None if settings.gpu_layers < 0 else settings.gpu_layers
    return None if "cuda" in (getattr(settings, "device", ""), getattr(settings, "provider", "")) else 0
