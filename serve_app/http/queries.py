"""Implements `dialects.base.QueryContext`, the view of the application for endpoints that generate nothing, over the gateway.

Catalog changes write to disk, and classifying many texts takes long, so both run on threads.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from serve_app.caller import Caller
from serve_app.conversation import GenerateRequest, Prompt, RenderedPrompt, RoutePreview, TaskExample
from serve_app.dialects.base import Archive, Models
from serve_app.engine_config import count_gpu_layers
from serve_app.gateway import Gateway
from serve_app.http.hints import apply_header_hints
from serve_app.http.respond import open_archive
from serve_app.model_info import LoadedGroup, ModelInfo
from serve_app.operations.shapes import count_used_tokens
from serve_app.record import RequestRecord
from serve_app.routing.fleet import Group
from serve_app.routing.tasks import confusion
from serve_app.types import EngineInfo, Task


@dataclass(frozen=True, slots=True)
class CatalogModels:
    """See `dialects.base.Models`."""

    gateway: Gateway
    caller: Caller

    def list(self) -> tuple[ModelInfo, ...]:
        """See `Models.list`."""
        return self.gateway.catalog.list(self.gateway.measure_context, self.caller)

    def find(self, name: str | None) -> ModelInfo:
        """See `Models.find`."""
        return self.gateway.catalog.describe(name, self.gateway.measure_context, self.caller)

    async def create(self, name: str, parent: str, changes: dict[str, Any]) -> ModelInfo:
        """See `Models.create`."""
        self.gateway.catalog.require_writable(name, parent, self.caller)
        variant = await asyncio.to_thread(self.gateway.catalog.create, name, parent, changes)
        return self.find(variant.name)

    async def copy(self, source: str, destination: str) -> None:
        """See `Models.copy`."""
        self.gateway.catalog.require_writable(destination, source, self.caller)
        await asyncio.to_thread(self.gateway.catalog.copy, source, destination)

    async def delete(self, name: str) -> None:
        """See `Models.delete`."""
        if self.caller.models:  # without that, what cannot be resolved any more can be deleted too
            self.gateway.catalog.resolve_any(name, caller=self.caller)
        await asyncio.to_thread(self.gateway.catalog.delete, name)

    async def has_blob(self, digest: str) -> bool:
        """See `Models.has_blob`."""
        return await asyncio.to_thread(self.gateway.catalog.blobs.holds, digest)

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See `Models.put_blob`."""
        await asyncio.to_thread(self.gateway.catalog.blobs.put, digest, content)


class GatewayContext:
    """See `dialects.base.QueryContext`; lives as long as one request."""

    def __init__(self, gateway: Gateway, request: Request, record: RequestRecord, raw_body: bytes) -> None:
        """Serve `request`; a route preview is written into `record`."""
        self._gateway = gateway
        self._request = request
        self._record = record
        self.models: Models = CatalogModels(gateway, record.caller)
        self.host = request.headers.get("host", "")
        self.headers: Mapping[str, str] = request.headers
        self.parameters: Mapping[str, str] = request.path_params
        self.query: Mapping[str, str] = request.query_params
        self.archive: Archive = open_archive(gateway, record)
        self.raw_body = raw_body
        self.request_id = record.request_id

    def loaded_groups(self) -> tuple[LoadedGroup, ...]:
        """See `QueryContext.loaded_groups`."""
        gateway = self._gateway
        return tuple(
            self._show_loaded(group, group.info)
            for group in gateway.fleet().groups
            if group.ready and group.info is not None and self._shows(gateway.settings.model_of(group.name))
        )

    def _shows(self, model: str) -> bool:
        catalog = self._gateway.catalog
        return model not in catalog.faults and catalog.allows(model, self._record.caller)

    def _show_loaded(self, group: Group, info: EngineInfo) -> LoadedGroup:
        settings = self._gateway.settings
        model = self._gateway.catalog.resolve_any(settings.model_of(group.name)).model
        on_gpu = model.weights.gpu_bytes(info.precision, count_gpu_layers(settings.engines[group.name]))
        room = None if info.kv_tokens is None else group.replicas * info.kv_tokens
        return LoadedGroup(
            group=group.name,
            model=model.name,
            engine=info.kind,
            precision=info.precision,
            replicas=group.replicas,
            context_length=info.context_length,
            weight_bytes=group.replicas * model.weights.loaded_bytes(info.precision),
            gpu_bytes=group.replicas * on_gpu,
            memory_bytes=group.memory_bytes,
            kv_tokens=room,
            kv_used_tokens=count_used_tokens(group.load.kv_usage, room),
        )

    async def render(self, model: str | None, prompt: Prompt) -> RenderedPrompt:
        """See `QueryContext.render`."""
        return await self._gateway.render(model, prompt, self._record.caller)

    async def preview_route(self, request: GenerateRequest) -> RoutePreview:
        """See `QueryContext.preview_route`."""
        preview = await self._gateway.preview_route(apply_header_hints(request, self._request), self._record)
        self._record.task, self._record.reason = preview.decision.task, preview.reason
        return preview

    async def confusion(self, examples: Sequence[TaskExample]) -> Mapping[Task, Mapping[Task, int]]:
        """See `QueryContext.confusion`."""
        return await asyncio.to_thread(confusion, examples, self._gateway.settings.routing.task_threshold)
