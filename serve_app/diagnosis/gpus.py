"""Checks the GPUs and their driver against the configuration and the installed CUDA libraries."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serve_app.diagnosis.checks import Check, fail, ok, warn
from serve_app.diagnosis.wheels import Versions
from serve_app.engine_config import EngineSettings, count_gpu_layers

_SUBJECT = "GPU"
_QUERY = ("--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits")
_TIMEOUT_S = 10
_LEAST_DRIVERS = {12: 525, 13: 580}
"""The first branch of drivers for a major version of CUDA, by NVIDIA's table of CUDA's minor version compatibility."""
_LOCAL_CUDA = re.compile(r"cu(\d{2})\d*")
_RUNTIME = re.compile(r"nvidia-cuda-runtime(?:-cu(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One line of nvidia-smi."""

    name: str
    driver: str
    total_bytes: int
    free_bytes: int


def parse_gpus(text: str) -> list[Gpu]:
    """Return the GPUs that nvidia-smi lists as name, driver, MiB in all and MiB free; lines of another form are left out."""
    found: list[Gpu] = []
    for line in text.splitlines():
        fields = [each.strip() for each in line.split(",")]
        if len(fields) == 4 and fields[2].isdigit() and fields[3].isdigit():
            total, free = int(fields[2]) << 20, int(fields[3]) << 20
            found.append(Gpu(name=fields[0], driver=fields[1], total_bytes=total, free_bytes=free))
    return found


def read_gpus() -> list[Gpu] | None:
    """Return the GPUs that nvidia-smi knows; None where there is no nvidia-smi or it gives up."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_gpus(done.stdout)


def find_cuda_major(installed: Versions) -> int | None:
    """Return the major version of CUDA that the installed packages are built for; None: of none."""
    if local := _LOCAL_CUDA.search(installed.get("torch", "").partition("+")[2]):
        return int(local[1])
    for name, version in installed.items():
        if found := _RUNTIME.fullmatch(name):
            return int(found[1] or version.partition(".")[0])
    return None


def check_gpus(gpus: list[Gpu] | None, engines: Mapping[str, EngineSettings], cuda_major: int | None) -> Iterator[Check]:
    """Yield whether there are GPUs for the groups that want one, and whether their driver fits the CUDA libraries."""
    wanting = [name for name, settings in engines.items() if count_gpu_layers(settings) != 0]
    if gpus is None or not gpus:
        if wanting:
            fix = "install NVIDIA's driver (in a container: its container toolkit, and --gpus all), or set these groups to the CPU"
            what = "there is no nvidia-smi" if gpus is None else "nvidia-smi lists none"
            yield fail(_SUBJECT, f"{what}, and these groups want a GPU: {', '.join(wanting)}", fix)
        else:
            yield ok(_SUBJECT, "none, and no group wants one")
        return
    for each in gpus:
        shown = f"{each.name}, driver {each.driver}, {each.free_bytes / 2**30:.0f} of {each.total_bytes / 2**30:.0f} GiB free"
        least = _LEAST_DRIVERS.get(cuda_major or 0)
        branch = each.driver.partition(".")[0]
        if wanting and least is not None and branch.isdigit() and int(branch) < least:
            fix = f"install a driver of branch {least} or newer, or packages for an older CUDA"
            yield fail(_SUBJECT, f"{shown}: too old for CUDA {cuda_major}, which the installed packages are built for", fix)
        else:
            yield ok(_SUBJECT, shown)
    if not wanting:
        yield warn(_SUBJECT, "no group uses it", "`phi-serve export kuberay --variant gpu` shows a configuration that does")


def check_gpu_memory(gpus: list[Gpu] | None, needs: Mapping[str, float]) -> Iterator[Check]:
    """Yield the groups that need more memory of a GPU, in bytes by name, than the largest one has."""
    largest = max((each.total_bytes for each in gpus or ()), default=0)
    for name, needed in needs.items():
        if largest and needed > largest:
            fix = "set tensor_parallel_size to more GPUs, a quantization, or a shorter max_model_len"
            finding = f"the group '{name}' needs {needed / 2**30:.1f} GiB of a GPU, and the largest has {largest / 2**30:.1f}"
            yield fail(_SUBJECT, finding, fix)
