"""A model added to the running application and taken out again: the other models answer every request meanwhile."""

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.live import LiveApp, live, shipped_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FIRST, SECOND = "phi-4-mini-instruct", "second"
LEAST_LOAD_S = 60


def _with_second(config: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config)
    application = config["applications"][0]
    application["args"]["models"][SECOND] = {"path": "embedded"}
    application["args"]["engines"]["other"] = {"kind": "llama_cpp", "model": SECOND, "precision": "f32", "slots": 2, "threads": 1}
    application["deployments"].append({"name": "other", "ray_actor_options": {"num_cpus": 0.1}, "max_surge_percent": 100})
    return config


def _deploy(config: dict[str, Any]) -> None:
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


def _ask(app: LiveApp, model: str, *, stream: bool) -> str:
    """Return `ok`, or what is wrong with the answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 40, "stream": stream}
    try:
        answer = httpx.post(f"{app.url}/v1/chat/completions", json=body, timeout=120)
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text[:200]}"
    if stream and not answer.text.endswith("data: [DONE]\n\n"):
        return "a stream without an end"
    if '"error"' in answer.text:
        return answer.text[-300:]
    return "ok" if answer.headers["x-model"] == model else f"an answer of {answer.headers['x-model']}"


@contextmanager
def _load(app: LiveApp) -> Iterator[Counter[str]]:
    """Ask the first model for streams and whole answers, one after the other in three threads, while the block runs."""
    outcomes: Counter[str] = Counter()
    end = threading.Event()

    def run(stream: bool) -> None:
        while not end.is_set():
            outcomes[_ask(app, FIRST, stream=stream)] += 1

    threads = [threading.Thread(target=run, args=(stream,)) for stream in (True, True, False)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        end.set()
        for thread in threads:
            thread.join()


def _await(is_done: Callable[[], bool], began: float, limit_s: float = 240) -> None:
    """Wait until it is done, and until the load has lasted long enough."""
    while not is_done() or time.monotonic() < began + LEAST_LOAD_S:
        assert time.monotonic() < began + limit_s, "the change took too long"
        time.sleep(0.5)


def _is_running() -> bool:
    from ray import serve

    return serve.status().applications["phi-serve"].status.value == "RUNNING"


def test_other_models_answer_while_one_is_added_and_taken_out() -> None:
    config = shipped_config()
    with live(config) as app:
        with _load(app) as outcomes:
            began = time.monotonic()
            _deploy(_with_second(app.config))
            _await(lambda: _ask(app, SECOND, stream=False) == "ok" and _is_running(), began)
        assert set(outcomes) == {"ok"}, outcomes
        listed = {model["id"] for model in httpx.get(f"{app.url}/v1/models").json()["data"]}
        assert {FIRST, SECOND} <= listed
        with _load(app) as outcomes:
            began = time.monotonic()
            _deploy(app.config)
            _await(lambda: _ask(app, SECOND, stream=False).startswith("404") and _is_running(), began)
        assert set(outcomes) == {"ok"}, outcomes
        print(f"answers meanwhile: {outcomes.total()}")
