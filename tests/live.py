"""The shipped configuration on a Ray of its own, started with `serve run` as a user would. For tests and benchmarks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import openai
import yaml

from serve_app.engine_config import ENCODERS

ROOT = Path(__file__).parents[1]
START_LIMIT_S = 240


@dataclass
class LiveApp:
    """The running application and what was seen while it started."""

    url: str
    log: Path
    config: dict[str, Any]
    temporary: Path
    """Where its replicas put their temporary files."""
    seen: list[tuple[float, int, dict[str, str]]] = field(default_factory=list)
    """(seconds since `serve run`, status of /health, phase per group), one entry per change."""
    first_answer_s: dict[str, float] = field(default_factory=dict)
    """Seconds from `serve run` to the first streamed token, per group."""
    key: str = "unused"
    """What its clients send as their API key."""
    ended: str = ""
    """What `serve run` wrote after it was told to end."""

    def client(self) -> openai.OpenAI:
        """Return the official client, without retries of its own."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    def loads(self, group: str) -> list[Any]:
        """Ask every replica of a group for its load, past all caches."""
        from ray import serve

        return list(serve.get_deployment_handle(group, "phi-serve").broadcast("load").results(timeout_s=10))

    def pids(self, group: str) -> list[int]:
        """Process ids of a group's replicas, from Ray's own books."""
        import ray
        from ray.util.state import list_actors

        address = ray.get_runtime_context().gcs_address  # there may be other Rays on this machine
        actors = list_actors(address, filters=[("state", "=", "ALIVE")], limit=1000, detail=True)
        return [actor.pid for actor in actors if f"#{group}#" in (actor.name or "")]

    def await_replicas(self, group: str, count: int, limit_s: float = 90) -> None:
        """Wait until so many replicas of a group answer."""
        deadline = time.monotonic() + limit_s
        while self._answering(group) < count or len(self.pids(group)) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"a replica of {group} was not replaced")
            time.sleep(0.5)

    def _answering(self, group: str) -> int:
        from ray.exceptions import ActorDiedError
        from ray.serve.exceptions import DeploymentUnavailableError

        try:
            return len(self.loads(group))
        except (ActorDiedError, DeploymentUnavailableError):  # none is left, or this process has not heard yet which is gone
            return 0


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shipped_config(*, require_model: bool = False) -> dict[str, Any]:
    """Return serve_config.yaml as a user gets it, but that most suites may leave out the model's name."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert config["applications"][0]["args"]["routing"]["require_model"]
    config["applications"][0]["args"]["routing"]["require_model"] = require_model
    return config


GROUPS = [name for name, engine in shipped_config()["applications"][0]["args"]["engines"].items() if engine["kind"] != "fake"]
"""The groups that a user gets; a new one is asked in every suite that drives the application."""


def _watch(app: LiveApp, process: subprocess.Popen[bytes], began: float, limit_s: float) -> None:
    """Record what the ingress says until every group is ready."""
    while time.monotonic() - began < limit_s:
        if process.poll() is not None:
            raise RuntimeError(f"serve run ended:\n{app.log.read_text()[-4000:]}")
        try:
            health = httpx.get(f"{app.url}/health", timeout=5)
            phases = {name: group["phase"] for name, group in health.json()["groups"].items()}
        except (httpx.HTTPError, ValueError, KeyError):
            time.sleep(0.2)
            continue
        if not app.seen or app.seen[-1][1:] != (health.status_code, phases):
            app.seen.append((time.monotonic() - began, health.status_code, phases))
        for group, phase in phases.items():
            if phase == "ready" and group not in app.first_answer_s:
                _stream_one_token(app, group)
                app.first_answer_s[group] = time.monotonic() - began
        if health.status_code == 200:
            return
        time.sleep(0.2)
    raise TimeoutError(f"not ready after {limit_s} s: {app.seen}\n{app.log.read_text()[-4000:]}")


def _stream_one_token(app: LiveApp, group: str) -> None:
    """Let a group answer: one token, or one vector where it makes embeddings."""
    args = app.config["applications"][0]["args"]
    model = args["engines"][group].get("model") or next(iter(args["models"]))
    if args["engines"][group]["kind"] in ENCODERS:
        with app.client() as client:
            client.embeddings.create(model=model, input="hi", extra_headers={"x-engine": group})
        return
    stream = app.client().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=1,
        stream=True,
        extra_headers={"x-engine": group},
        extra_body={"ignore_eos": True},
    )
    for _ in stream:
        pass


def _await_empty(folder: Path, limit_s: float = 10) -> None:
    """Wait until dead replicas' temporary folders are gone; raises `TimeoutError` with what is left."""
    deadline = time.monotonic() + limit_s
    while left := list(folder.glob(".phi-replica-*")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"replicas left {left}")
        time.sleep(0.1)


@contextmanager
def live(config: dict[str, Any], limit_s: float = START_LIMIT_S, *, key: str = "unused") -> Iterator[LiveApp]:
    """Serve `config` on a free port until the block ends; ends only what it started. It must be ready within `limit_s`.

    `key` is the API key of its clients, where the configuration names a file of keys.
    """
    import ray
    import ray.serve  # before cluster/serve.env is set: this process is a client and keeps Serve's own defaults

    scratch = Path(tempfile.mkdtemp(prefix="phi-", dir="/tmp"))  # short: Ray's socket paths are limited to 107 bytes
    port = free_port()
    config["http_options"]["port"] = port
    args = config["applications"][0]["args"]
    args |= {"public_url": f"http://127.0.0.1:{port}", "models_dir": str(scratch / "models")}
    args.setdefault("store", {"kind": "sqlite", "path": str(scratch / "state")})
    args["access"] = {"keys_file": str(scratch / "keys.json"), "journal_dir": str(scratch / "journal")} | args.get("access", {})
    file = scratch / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    app = LiveApp(f"http://127.0.0.1:{port}", scratch / "serve.log", config, scratch / "tmp", key=key)
    app.temporary.mkdir()
    tempfile.gettempdir()  # this process keeps its own
    lines = (ROOT / "cluster" / "serve.env").read_text().splitlines()
    serving = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    # Ray lets replicas yield to all other processes; beside tests in another process they would hardly be served.
    serving |= {"TMPDIR": str(app.temporary), "RAY_worker_niceness": "0"}
    with mock.patch.dict(os.environ, serving):
        ray.serve.context._set_global_client(None)  # type: ignore[attr-defined]  # another Ray's, where this process has used one
        ray.init(address="local", num_cpus=2, namespace="serve", _temp_dir=str(scratch / "ray"), log_to_driver=False)
        environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_DEDUP_LOGS": "0"}
    command = [str(Path(sys.executable).parent / "serve"), "run", str(file)]
    began = time.monotonic()
    with app.log.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        _watch(app, process, began, limit_s)
        yield app
    finally:
        written = app.log.stat().st_size
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        app.ended = app.log.read_bytes()[written:].decode(errors="replace")
        if (client := ray.serve.context._global_client) is not None:  # type: ignore[attr-defined]
            client.shutdown_cached_handles()  # they would start another Ray to report to, while other tests run
        ray.shutdown()
        _await_empty(app.temporary)
        shutil.rmtree(scratch, ignore_errors=True)
