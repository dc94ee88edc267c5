"""The whole application over fake engines, without Ray: what the HTTP suites drive."""

import atexit
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from serve_app.access.check import Access
from serve_app.chat.tokenizer import Tokenizer
from serve_app.config import AppSettings
from serve_app.dialects import anthropic, ollama, openai, reasoning
from serve_app.engine_config import ENCODERS
from serve_app.engines.fake import FakeEngine
from serve_app.engines.registry import build_engine
from serve_app.gateway import Gateway
from serve_app.http.app import create_app
from serve_app.models.catalog import Catalog
from serve_app.models.encoder import EncoderModel
from serve_app.models.locate import EMBEDDED
from serve_app.models.served import ServedModel
from serve_app.models.weights import Weights
from serve_app.operations.base import Bounds, Identity
from serve_app.operations.service import Operations
from serve_app.reports import ReplicaAction, ReplicaReport
from serve_app.routing.fleet import FleetView
from serve_app.types import Phase
from tests.encoders import FakeEncoder, write_files

TOKENIZER = Tokenizer.load(EMBEDDED)


THINKING = {"models": {"phi-4-mini-instruct": {"think_tags": ["<think>", "</think>"], "aliases": ["phi4-mini"]}}}
"""Settings of a model that thinks before it answers."""


def served_models(settings: AppSettings) -> list[Any]:
    """The configured models: all that generate are the embedded one, all embedding models a tiny one."""
    weights = Weights.read(EMBEDDED)
    return [
        EncoderModel.load(name, model, _write_encoder())
        if name in settings.embedding_models
        else ServedModel.build(name, model, TOKENIZER, weights)
        for name, model in settings.models.items()
    ]


@cache
def _write_encoder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="phi-encoder-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_files(folder / "model")


@dataclass
class App:
    """A client of the application, and its engines."""

    client: httpx.AsyncClient
    asgi: httpx.ASGITransport
    """For clients of other kinds."""
    gateway: Gateway
    engines: dict[str, FakeEngine]
    encoders: dict[str, FakeEncoder]
    routes: list[Any]
    """What is mounted."""
    cluster: "LocalCluster"
    view: FleetView


class LocalCluster:
    """One ingress; `others` are more. Replicas do what they are asked in the fleet's view; `actions` keeps what was asked."""

    def __init__(self, view: FleetView) -> None:
        self.identity = Identity(id="here", node="test", pid=1)
        self.view = view
        self.operations: Operations | None = None
        self.others: list[Operations] = []
        self.actions: list[tuple[Any, ...]] = []
        self.bounds: dict[str, Bounds] = {}

    async def ask_ingresses(self, question: str, argument: Any = None) -> list[Any]:
        assert self.operations is not None
        return [each.answer(question, argument) for each in (self.operations, *self.others)]

    async def act(self, group: str, action: ReplicaAction, replica: str | None = None) -> list[str]:
        self.actions.append((group, action, replica))
        reports = self.view.snapshot(time.monotonic()).group(group).reports  # type: ignore[union-attr]
        meant = [each for each in reports if replica in (None, each.replica_id) and each.phase in (Phase.READY, Phase.DRAINING)]
        for report in meant:
            phase = Phase.READY if action is ReplicaAction.RESUME else Phase.DRAINING
            self.view.record(replace(report, phase=phase), time.monotonic())
        return [report.replica_id for report in meant]

    async def wake(self, group: str) -> None:
        self.actions.append((group, "wake"))

    async def read_bounds(self) -> dict[str, Bounds]:
        return dict(self.bounds)

    async def set_bounds(self, group: str, bounds: Bounds) -> None:
        self.bounds[group] = bounds

    async def read_logs(self, group: str | None, replica: str | None, lines: int) -> list[dict[str, Any]]:
        return [{"group": group or "ingress", "id": replica or "here", "node": "test", "lines": ["a line"][:lines]}]


@asynccontextmanager
async def running(
    extra: Mapping[str, object] = MappingProxyType({}),
    /,
    *,
    routing: Mapping[str, object] = MappingProxyType({}),
    **engines: dict[str, object],
) -> AsyncIterator[App]:
    """Serve fake groups given as `name={settings}`, under settings as in `extra`; a group with `absent: True` never reports."""
    absent = {name for name, fields in engines.items() if fields.pop("absent", False)}
    settings = AppSettings.model_validate(
        {
            "engines": {
                name: fields if "kind" in fields else {"kind": "fake", "tokens_per_second": 5000} | fields
                for name, fields in engines.items()
            },
            "routing": dict(routing),
            "models_dir": None,
            "access": "open",
            "limits": {"max_body_bytes": 100_000, "request_timeout_s": 5},
        }
        | extra
    )
    view = FleetView(settings.engines, 3600)  # its groups report once only
    built: dict[str, FakeEngine] = {}
    encoders: dict[str, FakeEncoder] = {}
    for name, engine_settings in settings.engines.items():
        engine: Any
        if engine_settings.kind in ENCODERS:
            engine = encoders[name] = FakeEncoder(context=min(48, engine_settings.max_model_len))
        else:
            engine = built[name] = build_engine(engine_settings, EMBEDDED)
        await engine.start()
        if name not in absent:
            report = ReplicaReport(group=name, replica_id="0", phase=Phase.READY, info=engine.info)
            view.record(report, time.monotonic())
    gateway = Gateway(
        settings=settings,
        catalog=Catalog(settings, served_models(settings), created=1),
        generators=built | encoders,
        fleet=lambda: view.snapshot(time.monotonic()),
    )
    cluster = LocalCluster(view)
    cluster.operations = Operations(settings, gateway.fleet, lambda: gateway, cluster)
    dialects = (anthropic.DIALECT, openai.DIALECT, ollama.DIALECT, reasoning.DIALECT)
    app = create_app(gateway, dialects, Access(settings.access), cluster.operations)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield App(client, transport, gateway, built, encoders, app.routes, cluster, view)
