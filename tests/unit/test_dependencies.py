"""What serving installs and imports: nothing that only training needs."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
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
