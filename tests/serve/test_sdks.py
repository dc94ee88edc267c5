"""OpenAI's and Anthropic's JavaScript clients, and a suite of checks of three APIs, against the running application."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.fetch_tools import COMPLY, SDK_JS, node
from tests.live import GROUPS, LiveApp

pytestmark = pytest.mark.slow

FORMATS = ("open-responses", "openai-chat", "anthropic")


@pytest.mark.parametrize("group", GROUPS)
def test_javascript_clients(app: LiveApp, group: str) -> None:
    program = node()
    if program is None or not (SDK_JS / "openai").exists():
        pytest.skip("needs OpenAI's and Anthropic's JavaScript clients, and node where there is none: `make tools` fetches them")
    command = [program, str(Path(__file__).with_name("sdk_clients.mjs")), str(SDK_JS), app.url, group]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert len(set(told["texts"])) == 1
    assert told["types"][0] == "response.created"
    assert told["types"][-1] == "response.completed"
    assert told["calls"] == ["get_weather"] * 2
    assert all(isinstance(each["city"], str) for each in told["arguments"])
    assert told["told"]
    assert isinstance(json.loads(told["formed"])["city"], str)
    assert told["conversation"][0]
    assert told["conversation"][1] == ["user", "assistant", "user", "assistant", "user"]
    assert told["later"] == ["completed", told["texts"][0], 404]
    assert told["counted"] > 5
    assert told["refused"] == [400, "model"]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("format", FORMATS)
def test_the_published_schemas_are_kept(app: LiveApp, group: str, format: str) -> None:
    if not COMPLY.exists():
        pytest.skip("needs llm-comply: `make tools` fetches it")
    options = ["--base-url", f"{app.url}/v1", "-k", "x", "-m", "greedy", "--format", format, "--json"]
    command = [sys.executable, "-m", "llm_comply.cli", *options, "-H", f"x-engine: {group}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(COMPLY)})
    found = json.loads(ended.stdout[re.search(r"[\[{]", ended.stdout).start() :])  # type: ignore[union-attr]
    by_status = {status: [each["id"] for each in found["results"] if each["status"] == status] for status in ("passed", "failed")}
    print(f"\n{format} on {group}: {by_status}")
    assert all(each.endswith("image-input") for each in by_status["failed"]), ended.stdout  # no model here sees
    assert len(by_status["passed"]) >= 7
