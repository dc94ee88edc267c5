"""What `user_config` may change while the application runs."""

import copy
import json
import time

import httpx
import pytest

from deployments.ingress import merge_routing
from serve_app.config import AppSettings
from serve_app.types import Task
from tests.live import LiveApp

SETTINGS = AppSettings.model_validate(
    {"engines": {"a": {"kind": "fake"}, "b": {"kind": "fake"}}, "routing": {"prefer": {"math": ["a"]}, "max_attempts": 2}}
)


def test_named_fields_change_and_the_others_stay() -> None:
    routing = merge_routing(SETTINGS, {"routing": {"prefer": {"math": ["b"]}, "overrule_factor": 3}})
    assert (routing.prefer, routing.overrule_factor, routing.max_attempts) == ({Task.MATH: ("b",)}, 3, 2)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"rooting": {}}, "unknown: rooting"),
        ({"routing": {"prefers": {}}}, "prefers"),
        ({"routing": {"prefer": {"math": ["c"]}}}, "no engine group 'c'"),
        ({"routing": {"overrule_factor": 0.5}}, "overrule_factor"),
        ({"routing": {"stale_after_s": 3}}, "read at start only"),
        ({"routing": 5}, "routing is a mapping"),
        ({"routing": [1]}, "routing is a mapping"),
        ({1: 2}, "unknown: 1"),
    ],
)
def test_what_is_wrong_is_said(config: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        merge_routing(SETTINGS, config)


def _deploy(app: LiveApp, user_config: dict[str, object]) -> None:
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    config = copy.deepcopy(app.config)
    ingress = next(each for each in config["applications"][0]["deployments"] if each["name"] == "ingress")
    ingress["user_config"] = user_config
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


def _engine(app: LiveApp, request_id: str = "x") -> str:
    headers = {"x-task": "math", "x-request-id": request_id}
    body = {"model": "phi-4-mini", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    return httpx.post(f"{app.url}/v1/chat/completions", json=body, headers=headers, timeout=60).headers["x-engine"]


def test_preferences_change_in_the_running_ingress(app: LiveApp) -> None:
    ingress = app.pids("ingress")
    assert _engine(app) == "onnx"
    _deploy(app, {"routing": {"prefer": {"math": ["vllm"]}}})
    deadline = time.monotonic() + 60
    while _engine(app) != "vllm":
        assert time.monotonic() < deadline, "the preference was not taken"
        time.sleep(0.5)
    _deploy(app, {"routing": {}})
    while _engine(app) != "onnx":
        assert time.monotonic() < deadline, "the preference was not given back"
        time.sleep(0.5)
    assert app.pids("ingress") == ingress


def test_each_request_is_one_line_in_the_ingress_s_log(app: LiveApp) -> None:
    _engine(app, "a-line-to-be-found")
    logs = (app.log.parent / "ray" / "session_latest" / "logs" / "serve").glob("*ingress*.log")
    lines = [line for log in logs for line in log.read_text().splitlines() if "a-line-to-be-found" in line and '"outcome"' in line]
    assert len(lines) == 1
    told = json.loads(lines[0][lines[0].index("{") :])
    assert (told["task"], told["engine"], told["outcome"], told["completion_tokens"]) == ("math", "onnx", "ok", 1)
