"""Checks the processor's features, and which number formats pay on it. Pure functions over the text of /proc/cpuinfo."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serve_app.diagnosis.checks import Check, fail, ok, warn
from serve_app.engine_config import EngineSettings, VllmSettings, count_gpu_layers
from serve_app.types import EngineKind

_SUBJECT = "processor"
_SHOWN = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm")
"""The features on which speed depends."""
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Any of them multiplies bfloat16 in hardware."""
_DOT_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """The first processor of /proc/cpuinfo; the others are alike."""

    model: str
    """The maker's name of it; empty where there is none."""
    flags: frozenset[str]
    """Features, as Linux names them."""
    is_arm: bool = False


def parse_cpuinfo(text: str) -> Processor:
    """Return the processor that a text of /proc/cpuinfo describes."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", ""))
    return Processor(model=fields.get("model name", ""), flags=frozenset(flags.split()), is_arm="Features" in fields)


def check_processor(processor: Processor, engines: Mapping[str, EngineSettings]) -> Iterator[Check]:
    """Yield what the processor lacks for the groups on CPUs, and which formats to choose."""
    has = [flag for flag in _SHOWN if flag in processor.flags]
    name = processor.model or ("an ARM processor" if processor.is_arm else "a processor without a name")
    if not processor.flags:
        yield warn(_SUBJECT, f"{name}: its features cannot be read", "look at /proc/cpuinfo; nothing below is known of formats")
        return
    if not processor.is_arm and "avx2" not in processor.flags:
        has_vllm = any(each.kind is EngineKind.VLLM and count_gpu_layers(each) == 0 for each in engines.values())
        fix = "use a processor of 2015 or later; in a virtual machine let the host's processor through (CPU model `host`)"
        if has_vllm:
            yield fail(_SUBJECT, f"{name} has no AVX2, which vLLM's CPU build needs", fix)
        else:
            yield warn(_SUBJECT, f"{name} has no AVX2: engines on CPUs are several times slower, or do not start", fix)
        return
    yield ok(_SUBJECT, f"{name}: {', '.join(has)}. {advise(processor)}")
    has_bf16 = bool(_BF16 & processor.flags)
    for group, settings in engines.items():
        if not isinstance(settings, VllmSettings) or count_gpu_layers(settings) != 0:
            continue
        if settings.dtype != "float32" and not has_bf16:
            finding = f"the group '{group}' has dtype: {settings.dtype}, which this processor does not multiply in hardware"
            yield warn(_SUBJECT, finding, f"set engines.{group}.dtype: float32 where the memory suffices: it is faster here")
        if settings.dtype == "float32" and has_bf16:
            finding = f"the group '{group}' has dtype: float32, and this processor multiplies bfloat16 in hardware"
            yield warn(_SUBJECT, finding, f"set engines.{group}.dtype: bfloat16: faster, and half the memory")
        if settings.quantization in ("awq", "gptq") and "avx512f" not in processor.flags:
            finding = f"the group '{group}' has quantization: {settings.quantization}, whose CPU kernels need AVX-512"
            yield fail(_SUBJECT, finding, "serve the unquantized checkpoint, or an onnx group with precision: int4")
    if any(each.kind is EngineKind.VLLM for each in engines.values()) and "avx512f" not in processor.flags and not processor.is_arm:
        yield ok(_SUBJECT, "without AVX-512 vLLM computes with AVX2: expect an onnx group to be faster")


def advise(processor: Processor) -> str:
    """Return which formats to choose on a processor."""
    dtype = "vLLM: bfloat16" if _BF16 & processor.flags else "vLLM: float32 (bfloat16 is slower here)"
    if _DOT_INT8 & processor.flags:
        return f"{dtype}; ONNX and llama.cpp: int4 and int8 (q4_0, q8_0) have instructions of their own"
    return f"{dtype}; ONNX and llama.cpp: int4 (q4_0) reads the fewest bytes"
