"""The running application, started once for the suite and ended with it."""

from collections.abc import Iterator

import pytest

from tests.live import LiveApp, free_port, live, shipped_config


@pytest.fixture(scope="package")
def app() -> Iterator[LiveApp]:
    """The shipped configuration with a slow scripted group beside the real ones."""
    config = shipped_config(require_model=True)
    application = config["applications"][0]
    application["args"]["engines"]["slow"] = {"kind": "fake", "tokens_per_second": 2, "text": "one two three four"}
    application["args"]["variants"]["greedy"] = {"from": "phi4-mini", "parameters": {"temperature": 0}}
    application["args"]["ollama_port"] = {"port": free_port()}
    application["deployments"].append({"name": "slow", "ray_actor_options": {"num_cpus": 0.01}})
    with live(config) as app:
        yield app
    assert "***" not in app.ended  # a C++ stack
    assert "Traceback" not in app.ended
