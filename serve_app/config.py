"""What is served and how it is routed: the `args:` half of serve_config.yaml.

How many replicas run where is the other half (`deployments:`, Serve's own options). Unknown fields are errors, and every value
that can be wrong is checked here, before anything starts. Knows no engine and no Ray.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.types import EngineKind, Task


class Settings(BaseModel):
    """Base of every settings object: strict about names, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSettings(Settings):
    """Which weights are served, under which names."""

    path: str = "embedded"
    """`embedded`, a local folder in Hugging Face layout, or a hub id such as microsoft/Phi-4-mini-instruct."""
    revision: str | None = None
    """Branch, tag or commit when `path` is a hub id."""
    name: str = "phi-4-mini-instruct"
    """The name that clients use and that answers carry."""
    aliases: tuple[str, ...] = ("microsoft/Phi-4-mini-instruct", "phi-4-mini", "phi4-mini")
    """Other names accepted for it."""


class VllmSettings(Settings):
    """A vLLM group, on GPUs or CPUs."""

    kind: Literal[EngineKind.VLLM] = EngineKind.VLLM
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it computes; must match the installed wheel (extra `cpu` or `gpu`)."""
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
    threads: int | None = Field(None, ge=1)
    """OpenMP threads on CPUs; None: the replica's num_cpus, one at least."""
    ngram_speculation: int = Field(0, ge=0, le=16)
    """Tokens drafted per step by prompt lookup; 0 is off."""
    health_timeout_s: float = Field(30.0, gt=0)
    """A core that answers no probe for this long counts as hung."""


class OnnxSettings(Settings):
    """An ONNX Runtime group with continuous batching."""

    kind: Literal[EngineKind.ONNX] = EngineKind.ONNX
    precision: Literal["fp32", "int8", "int4"] = "fp32"
    """Weights of the exported graph."""
    exported: str | None = None
    """A folder that `phi-serve export onnx` wrote; None: the replica exports at its first start, into the cache."""
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
    """Most tokens drafted per step by prompt lookup for a lone stream, as long as it pays; 0 is off. Greedy answers stay the
    same; so it is left off with int8 and int4 weights, where what is rounding in fp32 moves logits by hundredths."""
    max_kv_gib: float | None = Field(None, gt=0)
    """Bound of the KV pool in GiB; None: what the machine or its memory limit leaves at start. A larger pool is refused."""
    threads: int | None = Field(None, ge=1)
    """Threads of one replica; None: the replica's num_cpus, one at least."""
    step_timeout_s: float = Field(60.0, gt=0)
    """A step that takes longer than this counts as hung."""


class FakeSettings(Settings):
    """A scripted group for tests and dry runs: no model, real everything else."""

    kind: Literal[EngineKind.FAKE] = EngineKind.FAKE
    text: str = "Hello from the fake engine."
    """What it answers, whatever the question."""
    tokens_per_second: float = Field(200.0, gt=0)
    """Pace of the answer."""
    load_s: float = Field(0.0, ge=0)
    """Seconds its start takes."""
    max_model_len: int = Field(4096, ge=16)
    """Context in tokens."""
    slots: int = Field(8, ge=1)
    """Generations at once."""
    fault: Literal["none", "fail_start", "fail_first", "die_midway", "truncate", "hang"] = "none"
    """How it misbehaves: refuses to start, fails before or after some tokens, ends without `Finished`, or never goes on."""


EngineSettings = Annotated[VllmSettings | OnnxSettings | FakeSettings, Field(discriminator="kind")]


class RoutingSettings(Settings):
    """Which group answers which task."""

    prefer: dict[Task, tuple[str, ...]] = Field(default_factory=dict)
    """Groups per task, best first. Groups not named follow in the order of `engines`."""
    task_threshold: float = Field(0.4, ge=0, le=1)
    """Least probability of an inferred task; a request that is unsure of every task counts as general."""
    max_attempts: int = Field(3, ge=1, le=10)
    """Tries per answer, the first included, as long as no token has reached the client."""
    accept_timeout_s: float = Field(10.0, gt=0)
    """Seconds a group may take to hand a request to a replica."""
    stale_after_s: float = Field(6.0, gt=0)
    """A replica not heard of for this long counts as gone; it reports once a second."""


class LimitSettings(Settings):
    """Bounds on what one request may ask."""

    max_body_bytes: int = Field(4 << 20, ge=1024)
    """Larger bodies are refused with 413."""
    max_choices: int = Field(4, ge=1, le=16)
    """Bound of `n`."""
    max_prompts: int = Field(16, ge=1)
    """Prompts in one /v1/completions call."""
    max_concurrent_generations: int = Field(256, ge=1)
    """Generations (prompts times `n`) one ingress replica works on at once; more get 503 with Retry-After."""
    request_timeout_s: float = Field(600.0, gt=0)
    """Longest time one request may take, waiting included."""


class AppSettings(Settings):
    """Everything under `args:`."""

    model: ModelSettings = ModelSettings()
    """The served model."""
    engines: dict[str, EngineSettings] = Field(min_length=1)
    """Engine groups by name; the name is also the Serve deployment's."""
    routing: RoutingSettings = RoutingSettings()
    """Task to group."""
    limits: LimitSettings = LimitSettings()
    """Bounds per request and per ingress."""
    public_url: str = "http://localhost:8000"
    """Where clients reach the ingress; shown in the message that it is ready."""

    @model_validator(mode="after")
    def _check_group_names(self) -> "AppSettings":
        if "ingress" in self.engines:
            raise ValueError("engines: 'ingress' is the name of the ingress deployment; call the group something else")
        for task, groups in self.routing.prefer.items():
            for group in groups:
                if group not in self.engines:
                    known = ", ".join(self.engines)
                    raise ValueError(f"routing.prefer.{task}: no engine group '{group}'; configured are: {known}")
        return self
