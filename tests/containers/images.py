"""The images: a base made here, since no registry of images may be in reach, the product's own, and Redis from Debian.

Wheels are fetched by this machine's own pip, with whatever mirrors and certificates it is set up with, and mounted into the
build: nothing of that reaches the image.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from serve_app.manifests.plan import VERSION
from tests.containers.podman import limits, podman

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".cache" / "wheels"
DOCKERFILE = ROOT / "docker" / "cpu.Dockerfile"
LOCK = ROOT / "requirements" / "image-cpu.txt"
IMAGE = f"localhost/phi-serve-cpu:{VERSION}"
REDIS = "localhost/phi-redis:debian"
_REDIS_DOCKERFILE = """\
FROM {base}
RUN apt-get update && apt-get install --yes --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* \\
    && install --directory --owner 999 --group 999 /data
"""


def base() -> str:
    """Make the image that the Dockerfile starts from, under its name, and return that name."""
    name = _argument("BASE_IMAGE")
    if podman("images", "--quiet", name):
        return name
    with tempfile.TemporaryDirectory(prefix="phi-base-") as scratch:
        root, tar = Path(scratch) / "root", Path(scratch) / "base.tar"
        _call("debootstrap", "--variant=minbase", "bookworm", str(root))
        _call("tar", "--create", "--file", str(tar), "--directory", str(root), ".")
        podman("import", str(tar), name, limit_s=300)
    return name


def build() -> str:
    """Build the CPU image and return its name; what has not changed is taken from podman's own cache."""
    base()
    _fetch_wheels()
    arguments = ["--volume", f"{WHEELS}:/wheels:ro", "--build-arg", "PIP_FIND_LINKS=/wheels", "--build-arg", "PIP_NO_INDEX=1"]
    _build(DOCKERFILE, IMAGE, arguments)
    return IMAGE


def build_redis() -> str:
    """Build an image with Debian's Redis, whose /data belongs to the user that compose.yaml names, and return its name."""
    with tempfile.TemporaryDirectory(prefix="phi-redis-") as scratch:
        file = Path(scratch) / "Dockerfile"
        file.write_text(_REDIS_DOCKERFILE.format(base=base()))
        _build(file, REDIS, [])
    return REDIS


def _build(file: Path, name: str, arguments: list[str]) -> None:
    # Docker's format: OCI's has no HEALTHCHECK. The host's network: a private mirror may be known there only.
    options = ["--format", "docker", "--pull=never", "--network", "host", *limits(), *arguments]
    podman("build", *options, "--file", str(file), "--tag", name, str(ROOT), limit_s=3600)


def _fetch_wheels() -> None:
    stamp, wanted = WHEELS / "lock.sha256", hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(WHEELS)]
    build_system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    _call(*download, *build_system["requires"], "--requirement", str(LOCK))
    stamp.write_text(wanted)


def _argument(name: str) -> str:
    """Return the default of one of the Dockerfile's arguments."""
    found = re.search(rf"^ARG {name}=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f"{DOCKERFILE.name} has no argument {name}")
    return found[1]


def _call(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-4000:]}")
