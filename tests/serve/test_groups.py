"""What a group's deployment adds to its settings."""

import pytest

from deployments.groups import set_threads
from serve_app.engine_config import EngineSettings, FakeSettings, LlamaCppSettings, OnnxSettings, VllmSettings


@pytest.mark.parametrize("kind", [LlamaCppSettings, OnnxSettings, VllmSettings])
@pytest.mark.parametrize(("cores", "threads"), [(0.15, 1), (1.0, 1), (2.9, 2), (8.0, 8)])
def test_threads_follow_the_cores_of_the_replica(
    kind: type[LlamaCppSettings | OnnxSettings | VllmSettings], cores: float, threads: int
) -> None:
    found = set_threads(kind(), cores)
    assert isinstance(found, kind)
    assert found.threads == threads


@pytest.mark.parametrize("settings", [OnnxSettings(threads=3), FakeSettings(threads=1)])
def test_what_is_configured_stays(settings: EngineSettings) -> None:
    assert set_threads(settings, 8.0) == settings
