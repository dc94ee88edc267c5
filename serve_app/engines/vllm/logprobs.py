"""The model's own logprobs under a constraint, in vLLM's worker.

vLLM takes its "raw" logprobs from logits after the constraint's mask: forbidden alternatives are -inf, and the allowed ones share
their probability. This extension of the worker keeps the logits from before the mask for the sampler. Knows the V1 model runner of
vLLM, which CPUs use; imports nothing of vLLM.
"""

from typing import Any

EXTENSION = f"{__name__}.RawLogprobs"
"""For vLLM's `worker_extension_cls`."""
_RUNNER = "vllm.v1.worker.gpu_model_runner"


class RawLogprobs:
    """The extension of vLLM's worker class; `collective_rpc` calls its method."""

    model_runner: Any

    def keep_raw_logprobs(self) -> bool:
        """Let the model runner take logprobs from before the mask; return False, changing nothing, for an unknown runner."""
        runner = self.model_runner
        if all(each.__module__ != _RUNNER for each in type(runner).__mro__):
            return False
        _RawLogits(runner)
        return True


class _RawLogits:
    """Wraps a model runner's samplers: holds one step's logits twice, with the mask and without."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._masked: Any = None
        self._raw: Any = None
        self._sample_tokens = runner.sample_tokens
        self._compute_logprobs = runner.sampler.compute_logprobs
        runner.sample_tokens = self.sample_tokens
        runner.sampler.compute_logprobs = self.compute_logprobs
        drafting = getattr(runner, "rejection_sampler", None)
        if drafting is not None:
            self._drafted_logprobs = drafting._get_logprobs_tensors
            drafting._get_logprobs_tensors = self.drafted_logprobs

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample; first copy the logits where there is a mask and a request wants logprobs."""
        state = self._runner.execute_model_state
        wanted = self._runner.input_batch.sampling_metadata.max_num_logprobs is not None
        if grammar_output is not None and state is not None and wanted:
            self._masked, self._raw = state.logits, state.logits.clone()
        try:
            return self._sample_tokens(grammar_output)
        finally:
            self._masked = self._raw = None

    def compute_logprobs(self, logits: Any) -> Any:
        """Return the logprobs of a step's logits, taken before the mask where a copy exists."""
        return self._compute_logprobs(self._raw if self._raw is not None and logits is self._masked else logits)

    def drafted_logprobs(
        self, count: int, metadata: Any, logits: Any, target_logits: Any, bonus_logits: Any, sampled_token_ids: Any
    ) -> Any:
        """Return the logprobs of drafted tokens and of the token after them, taken before the mask where a copy exists."""
        if self._raw is not None and logits is self._masked:
            target_logits, bonus_logits = self._raw[metadata.target_logits_indices], self._raw[metadata.bonus_logits_indices]
        return self._drafted_logprobs(count, metadata, logits, target_logits, bonus_logits, sampled_token_ids)
