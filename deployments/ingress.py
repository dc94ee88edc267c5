"""The ingress deployment: the HTTP application over remote groups. It answers long before the engines are loaded."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.asgi import ServeShim
from deployments.cluster import ServeCluster
from deployments.groups import INGRESS
from deployments.listening import find_exposed_addresses
from deployments.logs import write_to_serve_log
from deployments.remote import RemoteEngine
from deployments.second_port import listen
from deployments.wait_for_reports import WaitForReports
from serve_app.access.accounts import Accounts
from serve_app.access.check import Access
from serve_app.access.operator import find_operators
from serve_app.accounting import REQUEST_LOG
from serve_app.config import AppSettings, ModelSettings, RoutingSettings, require_names
from serve_app.dialects import anthropic, ollama, openai, reasoning
from serve_app.errors import ModelUnusable, RequestError, explain
from serve_app.gateway import Gateway
from serve_app.http.access import AUDIT_LOG
from serve_app.http.app import create_app, create_unusable_app
from serve_app.metrics import IngressMetrics
from serve_app.models.catalog import Catalog
from serve_app.models.encoder import EncoderModel
from serve_app.models.locate import locate
from serve_app.models.resolved import AnyModel
from serve_app.models.served import ServedModel
from serve_app.operations.service import Operations
from serve_app.reports import ReplicaReport
from serve_app.routing.fleet import Fleet, FleetView
from serve_app.types import InvalidValue, Phase

logger = logging.getLogger(__name__)

_QUESTION = "A train travels 240 km in 3 hours. If it increases its speed by 20 km/h, how long would the same journey take?"

_RETRY_S = 10.0
"""Seconds between attempts to load a model whose files are missing or unusable."""
DIALECTS = (anthropic.DIALECT, openai.DIALECT, ollama.DIALECT, reasoning.DIALECT)


@serve.ingress()
class Ingress:
    """Serves every dialect; the replicas' reports show which groups are ready."""

    def __init__(self, settings: AppSettings, groups: Mapping[str, DeploymentHandle[Any]]) -> None:
        """Load the tokenizer and build the gateway; touches no engine."""
        self._settings = settings
        routing = settings.routing
        self._fleet = FleetView(settings.engines, routing.stale_after_s, routing.sleeping)
        self._is_announced = False
        self._failures: set[tuple[str, str]] = set()
        self._reported = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        write_to_serve_log(REQUEST_LOG, AUDIT_LOG)
        self._access = Access(settings.access, exposed=find_exposed_addresses(settings))
        self._accounts = Accounts.open(settings.access, settings.store)
        if self._access.refusal:
            print(f"\nThe application answers nobody: {self._access.refusal}", flush=True)
        self._groups = groups
        context = serve.get_replica_context()
        cluster = ServeCluster(context.app_name, INGRESS, context.replica_id.unique_id, groups)
        self._operations = Operations(settings, self._snapshot, lambda: self._gateway, cluster)
        self._operations.faults = lambda: self._faults
        cluster.operations = self._operations
        self._sampling: asyncio.Task[None] | None = None
        self._gateway: Gateway | None = None
        self._faults: dict[str, ModelUnusable] = {}
        self._models: dict[str, AnyModel] = {}
        self._reasons: dict[str, str] = {}
        """Why a model could not be loaded at the last attempt, by its name."""
        self._routing = settings.routing
        """With the changes of `user_config`, which may come before any model can be served."""
        self._app: ASGIApp | None = None
        self._retrying: asyncio.Task[None] | None = None
        self._serve(*self._load_models())

    def _serve(self, models: list[AnyModel], faults: dict[str, ModelUnusable]) -> None:
        """Build the gateway over the models that can be served, or keep the reason why none can.

        If the ingress ended instead, Serve would restart it forever and no client could see the reason.
        """
        self._faults = faults
        if not models:
            return
        settings, routing = self._settings, self._settings.routing
        catalog = Catalog(settings, models, created=int(time.time()), faults=faults)
        if self._gateway is not None:
            self._gateway.use(catalog)
            return
        self._gateway = Gateway(
            settings=settings,
            catalog=catalog,
            generators={
                name: RemoteEngine(name, handle, _choose_accept_timeout_s(routing, name)) for name, handle in self._groups.items()
            },
            fleet=self._snapshot,
            metrics=IngressMetrics(serve.get_replica_context().replica_id.unique_id),
            accounts=self._accounts,
        )
        self._gateway.configure(self._routing)

    def _load_models(self) -> tuple[list[AnyModel], dict[str, ModelUnusable]]:
        """Return the models that can be served, and why the others cannot: one that fails leaves the others alone."""
        faults: dict[str, ModelUnusable] = {}
        for name, settings in self._settings.models.items():
            if name in self._models:
                continue
            try:
                self._models[name] = _load_model(name, settings, is_encoder=name in self._settings.embedding_models)
            except Exception as error:  # a folder with a fault that nobody foresaw must not take the other models down
                faults[name] = fault = error if isinstance(error, ModelUnusable) else ModelUnusable(explain(error))
                if self._reasons.get(name) != fault.message:
                    self._reasons[name] = fault.message
                    logger.exception("the model %s cannot be served", name)
                    print(f"\nThe model {name} cannot be served: {fault.message}", flush=True)
        return [self._models[name] for name in self._settings.models if name in self._models], faults

    async def _retry(self) -> None:
        """Try again every few seconds: the hub may become reachable, or the files may be repaired."""
        while self._gateway is None or self._gateway.catalog.faults:
            await asyncio.sleep(_RETRY_S)
            had_none = self._gateway is None
            loaded = await asyncio.to_thread(self._load_models)
            try:  # on the loop: `reconfigure` changes the gateway too
                self._serve(*loaded)
            except (RequestError, InvalidValue) as error:  # a variant of a model that only now can be loaded
                logger.error("the repaired models are not served: variants: %s", error)
                continue
            if had_none and self._gateway is not None:
                self._app = self._build_app(self._gateway)

    def _build_app(self, gateway: Gateway) -> ASGIApp:
        return WaitForReports(create_app(gateway, DIALECTS, self._access, self._operations), self._reported)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Apply `user_config` of serve_config.yaml: its `routing` replaces fields of `args.routing`, without a restart.

        A faulty configuration is logged and changes nothing: an exception would make Serve restart a working ingress.
        """
        try:
            routing = merge_routing(self._settings, user_config)
        except ValueError as error:
            logger.error("user_config of the ingress is not used: %s", error)
            return
        self._routing = routing
        if self._gateway is not None:
            self._gateway.configure(routing)

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application; Serve calls this once, after construction, on the loop that runs it."""
        if self._gateway is not None:
            self._app = self._build_app(self._gateway)
        else:
            self._app = create_unusable_app(
                self._settings, self._snapshot, DIALECTS, lambda: self._faults, self._access, self._operations
            )
        if self._reasons:
            self._retrying = asyncio.create_task(self._retry())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert self._app is not None
            await (self._live(receive, send) if scope["type"] == "lifespan" else self._app(scope, receive, send))

        second = self._settings.ollama_port
        if second is not None:
            self._listening = asyncio.create_task(listen(app, second.host, second.port))
        return ServeShim(app)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Keep limits and usage up to date from the replica's start to its end in order."""
        await receive()
        self._accounts.start()
        self._sampling = asyncio.create_task(self._operations.run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._sampling.cancel()
        self._operations.close()
        if self._gateway is not None:
            await self._gateway.background.close()
        await self._accounts.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def answer_operations(self, asker: str, question: str, argument: Any) -> Any:
        """Answer another ingress' question for operators; None where it is this ingress' own."""
        own = serve.get_replica_context().replica_id.unique_id
        return None if asker == own else self._operations.answer(question, argument)

    async def report(self, report: ReplicaReport) -> None:
        """Take the report of a replica."""
        self._fleet.record(report, time.monotonic())
        if report.phase is Phase.FAILED and (report.group, report.reason) not in self._failures:
            self._failures.add((report.group, report.reason))
            print(f"\nGroup {report.group} failed: {report.reason}", flush=True)
        if not self._is_announced and self._snapshot().ready:
            self._is_announced = True
            self._reported.set()
            print(_build_announcement(self._settings, asks_for_keys=self._access.asks_for_keys), flush=True)
            print(f"Operations: {self._settings.public_url}/ops{self._issue_ticket()}", flush=True)

    def _issue_ticket(self) -> str:
        """Return the fragment of the link to the operations page that signs a browser in; empty where a key does that."""
        if self._access.asks_for_keys:
            return ""
        try:
            return f"#ticket={find_operators(self._settings.access.keys_file).issue_ticket()}"
        except OSError as error:
            logger.error("no link to the operations page: its folder cannot be used: %s", error.strerror)
            return ""

    def _snapshot(self) -> Fleet:
        return self._fleet.snapshot(time.monotonic())


def _load_model(name: str, settings: ModelSettings, *, is_encoder: bool) -> AnyModel:
    folder = locate(settings, weights=False)
    return EncoderModel.load(name, settings, folder) if is_encoder else ServedModel.load(name, settings, folder)


def _choose_accept_timeout_s(routing: RoutingSettings, group: str) -> float:
    return routing.wake_timeout_s if group in routing.sleeping else routing.accept_timeout_s


def merge_routing(settings: AppSettings, user_config: Mapping[str, Any]) -> RoutingSettings:
    """Return `args.routing` with the fields in `user_config["routing"]`; raises `ValueError` for unknown and invalid fields."""
    changes = user_config.get("routing") or {} if isinstance(user_config, Mapping) else None
    if not isinstance(changes, Mapping):
        raise ValueError("it is a mapping with the key routing, and routing is a mapping of fields")
    unknown = set(user_config) - {"routing"}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(map(str, unknown)))}; known is: routing")
    fixed = set(changes) & {"stale_after_s", "accept_timeout_s", "sleeping", "wake_timeout_s"}
    if fixed:
        raise ValueError(f"routing.{fixed.pop()} is read at start only; set it under args")
    merged = settings.routing.model_dump() | dict(changes)
    routing = RoutingSettings.model_validate(merged)
    require_names(routing, settings)
    return routing


def build_ingress(settings: AppSettings, groups: Mapping[str, serve.Application]) -> serve.Application:
    """Return the ingress bound to its groups."""
    deployment = serve.deployment(
        name=INGRESS,
        max_ongoing_requests=1000,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=settings.limits.request_timeout_s + 30,
    )(Ingress)
    return deployment.bind(settings, dict(groups))


def _build_announcement(settings: AppSettings, *, asks_for_keys: bool) -> str:
    model = settings.default_model
    url = settings.public_url
    json = "-H 'content-type: application/json'" + (' -H "authorization: Bearer $PHI_SERVE_API_KEY"' if asks_for_keys else "")
    if model in settings.embedding_models:
        command = f'curl {url}/v1/embeddings {json} -d \'{{"model":"{model}","input":"Hello"}}\''
        return f"\nEvery engine group is ready. Try:\n{command}"
    chat = f'{{"model":"{model}","messages":[{{"role":"user","content":"Who are you?"}}]'
    return "\n".join(
        (
            "",
            "Every engine group is ready. Try:",
            f"curl {url}/v1/chat/completions {json} -d '{chat}}}'",
            f"curl -N {url}/v1/chat/completions {json} -d '{chat},\"stream\":true}}'",
            f'curl {url}/reasoning {json} -d \'{{"prompt":"{_QUESTION}","task_type":"math"}}\'',
        )
    )
