"""What `user_config` may change while the application runs."""

import pytest

from deployments.ingress import reroute
from serve_app.config import AppSettings
from serve_app.types import Task

SETTINGS = AppSettings.model_validate(
    {"engines": {"a": {"kind": "fake"}, "b": {"kind": "fake"}}, "routing": {"prefer": {"math": ["a"]}, "max_attempts": 2}}
)


def test_named_fields_change_and_the_others_stay() -> None:
    routing = reroute(SETTINGS, {"routing": {"prefer": {"math": ["b"]}, "overrule_factor": 3}})
    assert (routing.prefer, routing.overrule_factor, routing.max_attempts) == ({Task.MATH: ("b",)}, 3, 2)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"rooting": {}}, "unknown: rooting"),
        ({"routing": {"prefers": {}}}, "prefers"),
        ({"routing": {"prefer": {"math": ["c"]}}}, "no engine group 'c'"),
        ({"routing": {"overrule_factor": 0.5}}, "overrule_factor"),
        ({"routing": {"stale_after_s": 3}}, "read at start only"),
    ],
)
def test_what_is_wrong_is_said(config: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        reroute(SETTINGS, config)
