"""vLLM's AsyncLLM, token-in/token-out, on GPUs or CPUs.

vLLM trusts its caller: a float among the token ids hangs its core, and its own `check_health` notices only dead processes. So the
request types are exact by construction (`serve_app.types`), and our health check is a round trip to the core.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from serve_app.chat.grammar import require_lark, wrap_tokenizer
from serve_app.chat.lark import wrap_lark
from serve_app.chat.lark_text import may_force_tokens
from serve_app.chat.tokenizer import Tokenizer
from serve_app.engine_config import VllmSettings
from serve_app.engines.admission import compute_answer_limit
from serve_app.engines.guidance import Guidance, Guide, build_too_large_error
from serve_app.engines.throughput import Throughput
from serve_app.engines.vllm.logprobs import EXTENSION
from serve_app.engines.vllm.requirements import read_cpu_flags, require_device, require_runnable
from serve_app.errors import EngineDead, GenerationFailed, InvalidRequest, ModelUnusable, ServeError, explain
from serve_app.files.dense_tokenizer import write_dense_tokenizer
from serve_app.types import (
    Capability,
    Constraint,
    EngineInfo,
    EngineKind,
    EngineLoad,
    Finished,
    FinishReason,
    Grammar,
    Sampling,
    Timings,
    TokenDelta,
    TokenEvent,
    TokenLogprob,
    TokenRequest,
    Usage,
    clamp_logprob,
)

logger = logging.getLogger(__name__)

_MIN_STEP_TOKENS = 2048
"""Least tokens of a step on CPUs."""

_UNSUPPORTED_WHILE_DRAFTING = frozenset({Capability.LOGIT_BIAS, Capability.MIN_P})
_REFUSALS = (ValueError, TypeError, LookupError, NotImplementedError, AssertionError, OSError, SafetensorError)
"""What vLLM raises for settings (pydantic's error is a `ValueError`) and damaged files; a core that dies is a `RuntimeError`."""


class _LatestStats(AggregateStatLoggerBase):
    """Keeps the scheduler's latest statistics, which vLLM pushes every step."""

    last: "_LatestStats | None" = None

    def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None) -> None:
        """Take vLLM's arguments by their names."""
        self.scheduler: Any = None
        _LatestStats.last = self

    def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0) -> None:
        """Keep the statistics."""
        if scheduler_stats is not None:
            self.scheduler = scheduler_stats

    def log_engine_initialized(self) -> None:
        """Log nothing."""


class VllmEngine:
    """AsyncLLM behind the engine contract; see `serve_app.engines.base`."""

    def __init__(self, settings: VllmSettings, model_dir: Path) -> None:
        """Keep the settings; `start` does the work."""
        self._settings = settings
        self._model_dir = model_dir
        self._llm: AsyncLLM | None = None
        self._kv_tokens: int | None = None
        self._kv_bytes: int | None = None
        self._guidance: Guidance | None = None
        self._vocabulary_size = 0
        self._end_ids: tuple[int, ...] = ()
        self._control_tokens: frozenset[str] = frozenset()
        self._stats: _LatestStats | None = None
        self._throughput = Throughput()

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo(
            kind=EngineKind.VLLM,
            context_length=self._settings.max_model_len,
            # vLLM refuses these two capabilities while it drafts tokens.
            capabilities=frozenset(Capability) - (_UNSUPPORTED_WHILE_DRAFTING if self._settings.ngram_speculation else frozenset()),
            max_concurrency=self._settings.max_num_seqs,
            precision=self._settings.quantization or self._settings.dtype,
            kv_tokens=self._kv_tokens,
            kv_bytes=self._kv_bytes,
        )

    async def start(self) -> None:
        """Check that the settings can run here, then start the core process. Takes 10 to 60 s on CPUs.

        Raises `ModelUnusable` where vLLM refuses the settings or the model's files, `EngineDead` where its core dies meanwhile.
        """
        require_device(self._settings.device, current_platform.device_type)
        require_runnable(self._settings, self._model_dir, read_cpu_flags())
        _set_environment(self._settings)
        tokenizer = await asyncio.to_thread(Tokenizer.load, self._model_dir, control=False)
        self._guidance = Guidance(await asyncio.to_thread(wrap_tokenizer, tokenizer), tokenizer.vocabulary.size)
        self._end_ids = tokenizer.vocabulary.stop_ids
        self._control_tokens = frozenset(tokenizer.raw(at).decode() for at in tokenizer.vocabulary.control_ids)
        try:
            llm = await asyncio.to_thread(self._build)
            self._llm = llm
            if not all(await llm.collective_rpc("keep_raw_logprobs")):
                logger.warning("logprobs under a constraint will include its mask: this model runner is unknown")
        except ServeError:
            raise
        except _REFUSALS as error:
            logger.exception("vLLM refuses the settings or the model's files")
            raise ModelUnusable(f"vLLM refuses the settings or the model's files: {explain(error)}") from error
        except Exception as error:
            logger.exception("vLLM did not start")
            raise EngineDead(f"vLLM did not start: {explain(error)}") from error
        self._stats = _LatestStats.last
        cache = llm.vllm_config.cache_config
        self._kv_tokens = cache.kv_cache_size_tokens
        self._kv_bytes = cache.kv_cache_memory_bytes  # None on GPUs, where the cache takes what is free

    def _build(self) -> AsyncLLM:
        args = _build_engine_args(self._settings, self._model_dir) | {"tokenizer": str(write_dense_tokenizer(self._model_dir))}
        config = AsyncEngineArgs(**args).create_engine_config()
        self._vocabulary_size = int(config.model_config.get_vocab_size())
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True, stat_loggers=[_LatestStats])

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `Engine.generate`."""
        llm = self._running_llm()
        limit = compute_answer_limit(request, self._settings.max_model_len, self._vocabulary_size)
        # vLLM silently ignores a constraint that names unknown control tokens, and ends an answer as if it were complete where the
        # constraint grows too large. So the constraint is compiled here too, and the guide checks vLLM's tokens.
        constraint = request.constraint
        guide, lark = await self._start_guide(constraint) if constraint else (None, "")
        params = _build_sampling_params(request.sampling, limit, lark)
        prompt: Any = tokens_input(list(request.prompt), cache_salt=request.cache_salt)
        started_s = time.monotonic()
        first_token_s: float | None = None
        generated = 0
        with _translate_errors():
            stream = llm.generate(prompt, params, request.request_id)
            try:
                async for output in stream:
                    first_token_s = first_token_s or time.monotonic()
                    part = output.outputs[0]
                    ids = tuple(int(token) for token in part.token_ids)
                    generated += len(ids)
                    self._throughput.add(len(ids))
                    ended = part.finish_reason == FinishReason.STOP
                    if guide and constraint and ids and not guide.follow(ids, ended=ended, optional=constraint.optional):
                        guide = None
                    if guide and part.finish_reason == "error":  # the core could not follow its own copy
                        raise build_too_large_error()
                    reason = _read_finish_reason(part.finish_reason)
                    kept = ids[:-1] if reason is FinishReason.STOP else ids
                    if kept:
                        yield TokenDelta(kept, _read_logprobs(part.logprobs, kept, request.sampling.logprobs))
                    if reason is not None:
                        now = time.monotonic()
                        usage = Usage(
                            prompt_tokens=len(request.prompt),
                            completion_tokens=generated,
                            cached_tokens=int(output.num_cached_tokens or 0),
                        )
                        yield Finished(
                            reason=reason,
                            usage=usage,
                            timings=Timings(prefill_s=first_token_s - started_s, decode_s=now - first_token_s),
                        )
                        return
            finally:
                await stream.aclose()

    async def _start_guide(self, constraint: Constraint) -> tuple[Guide | None, str]:
        """Return a guide for the constraint and its grammar for the core; neither for an optional one that does not compile.

        Raises `InvalidRequest` for a required constraint that does not compile.
        """
        assert self._guidance is not None
        lark = require_lark(constraint)
        guide = await self._guidance.start(Grammar(wrap_lark(lark, self._end_ids), optional=constraint.optional))
        return guide, wrap_lark(lark, self._end_ids, forcing=may_force_tokens(lark, self._control_tokens)) if guide else ""

    def _running_llm(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineDead("vLLM is not running")
        return self._llm

    async def check_health(self) -> None:
        """Raise `EngineDead` unless the core answers a round trip in time; waits for a step in progress."""
        llm = self._running_llm()
        try:
            await asyncio.wait_for(llm.is_sleeping(), self._settings.health_timeout_s)
        except TimeoutError as error:
            raise EngineDead(f"vLLM's core has not answered for {self._settings.health_timeout_s:g} s") from error
        except Exception as error:
            raise EngineDead(f"vLLM's core is dead ({type(error).__name__})") from error

    def load(self) -> EngineLoad:
        """See `Engine.load`."""
        scheduler = self._stats.scheduler if self._stats else None
        unfinished = int(self._llm.output_processor.get_num_unfinished_requests()) if self._llm else 0
        # The scheduler pushes its statistics with each step, so they are stale when nothing runs.
        waiting = min(unfinished, int(scheduler.num_waiting_reqs)) if scheduler else 0
        return EngineLoad(
            running=unfinished - waiting,
            waiting=waiting,
            waiting_tokens=int(self._llm.get_num_queued_tokens()) if self._llm else 0,
            kv_usage=float(scheduler.kv_cache_usage) if scheduler and unfinished else 0.0,
            tokens_per_second=self._throughput.rate(),
        )

    async def close(self) -> None:
        """End the core process."""
        if self._guidance is not None:
            self._guidance.close()
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None


def _set_environment(settings: VllmSettings) -> None:
    """Set what vLLM reads only from the environment; the core process inherits it."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if settings.enforce_eager:
        # vLLM compiles its logprob ranking lazily even in eager mode: the first such request would stall the core for 20 s.
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    if settings.device == "cpu":
        # Automatic binding reserves a core and pins every replica to the same one.
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        os.environ["OMP_NUM_THREADS"] = str(settings.threads or 1)
        # Keeps the CPU platform from adding a worker process to the core process.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def _build_engine_args(settings: VllmSettings, model_dir: Path) -> dict[str, Any]:
    args: dict[str, Any] = {
        "model": str(model_dir),
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "quantization": settings.quantization,
        "enforce_eager": settings.enforce_eager,
        "generation_config": "vllm",
        "worker_extension_cls": EXTENSION,
        # only guidance supports Lark with control tokens, and the JSON spacing that a schema asks for
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
    }
    if settings.device == "cpu":
        args |= {
            "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
            "distributed_executor_backend": "uni",
            # A seeded request whose prompt is cut into chunks ends vLLM's core on CPUs: it rewinds the generator by an offset,
            # which torch's CPU generators lack. So prompts are read whole, and a step has room for the longest prompt.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_MIN_STEP_TOKENS, settings.max_model_len),
        }
    else:
        args |= {"gpu_memory_utilization": settings.gpu_memory_utilization}
    if settings.ngram_speculation:
        args["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": settings.ngram_speculation,
            "prompt_lookup_max": 4,
        }
    return args


def _build_sampling_params(sampling: Sampling, max_tokens: int, lark: str) -> SamplingParams:
    return SamplingParams(
        structured_outputs=StructuredOutputsParams(grammar=lark) if lark else None,
        temperature=0.0 if sampling.greedy else sampling.temperature,
        top_p=1.0 if sampling.greedy else sampling.top_p,  # vLLM refuses 0
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        seed=sampling.seed,
        max_tokens=max_tokens,
        min_tokens=min(sampling.min_tokens, max_tokens),
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=True,  # the request names every stop token itself
        logprobs=sampling.logprobs,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _read_finish_reason(reason: str | None) -> FinishReason | None:
    if reason is None:
        return None
    if reason == "error":
        raise GenerationFailed("vLLM ended the generation with an error")
    if reason == "abort":
        raise EngineDead("vLLM is shutting down and aborted the generation")
    return FinishReason(reason)


def _read_logprobs(parts: Any, ids: tuple[int, ...], count: int | None) -> tuple[TokenLogprob, ...]:
    """Return the requested logprobs, without alternatives that a mask forbade."""
    if count is None or parts is None:
        return ()
    result = []
    for token, entries in zip(ids, parts, strict=False):
        ranked = sorted((entry.rank, other, float(entry.logprob)) for other, entry in entries.items() if entry.rank <= count)
        top = tuple((int(other), value) for _, other, value in ranked if value > -math.inf)
        result.append(TokenLogprob(token, clamp_logprob(float(entries[token].logprob)), top))
    return tuple(result)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn vLLM's exceptions into ours."""
    try:
        yield
    except EngineDeadError as error:
        raise EngineDead("vLLM's core died") from error
    except VLLMValidationError as error:
        raise InvalidRequest(_extract_first_line(error)) from error
    except EngineGenerateError as error:
        raise GenerationFailed("vLLM failed to generate") from error


def _extract_first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
