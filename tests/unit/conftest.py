"""The unit suites run without Ray and without any engine's runtime."""

import sys
from collections.abc import Iterator

import pytest

_HEAVY = ("ray", "vllm", "onnxruntime", "xllamacpp", "torch")


@pytest.fixture(scope="module", autouse=True)
def no_heavy_imports() -> Iterator[None]:
    """Fail a module whose tests imported a runtime that another suite had not imported before."""
    before = {name for name in _HEAVY if name in sys.modules}
    yield
    assert {name for name in _HEAVY if name in sys.modules} == before
