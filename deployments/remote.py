"""Presents a group of replicas as an engine, and sends the replicas' reports to the ingress.

The only place where Ray's exceptions become ours.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from contextvars import Context
from typing import Any, cast

import grpc
from ray import serve
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from serve_app.encoding import Encoded, EncodeRequest
from serve_app.errors import EngineDead, GenerationFailed, NoEngine, Overloaded, ServeError
from serve_app.reports import ReplicaReport
from serve_app.types import TokenEvent, TokenRequest

logger = logging.getLogger(__name__)

_REPORT_TIMEOUT_S = 3.0


class RemoteEngine:
    """Generates or encodes on a replica of a group. Serve chooses the replica by the request's placement and records it there."""

    def __init__(self, group: str, handle: DeploymentHandle[Any], accept_timeout_s: float) -> None:
        """Configure the handle once, since every `.options()` builds another router."""
        self._group = group
        # By value: each batch is one gRPC message instead of an object in Ray's store; see docs/performance.md.
        self._generate = handle.options(stream=True, method_name="generate", _by_reference=False)
        self._encode = handle.options(stream=True, method_name="encode", _by_reference=False)
        self._accept_timeout_s = accept_timeout_s

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield the replica's events; closing the iterator cancels the request there. Raises `ServeError` only."""
        async with aclosing(self._call(self._generate, request)) as events:
            async for event in events:
                yield event

    async def encode(self, request: EncodeRequest) -> Encoded:
        """Return the replica's vectors; cancelling it cancels the request there. Raises `ServeError` only."""
        async with aclosing(self._call(self._encode, request)) as results:
            async for encoded in results:
                return cast(Encoded, encoded)
        raise EngineDead(f"a replica of group {self._group} ended the request without a result")

    async def _call(self, method: DeploymentHandle[Any], request: TokenRequest | EncodeRequest) -> AsyncGenerator[Any, None]:
        """Yield what a replica's method yields in batches; closing the iterator cancels the call there.

        Serve waits without limit for a replica to appear, so acceptance (the replica's empty first batch) has a deadline.
        """
        # In a new context: Serve's router confuses calls that share the id of an HTTP request.
        response = cast(DeploymentResponseGenerator[Any], Context().run(method.remote, request))
        try:
            await self._await_acceptance(response)
            async for batch in response:
                for event in batch:
                    if isinstance(event, ServeError):
                        raise event
                    yield event
        except ServeError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the client left or the deadline passed
            raise EngineDead(f"a replica of group {self._group} dropped the request") from error
        except Exception as error:
            raise translate_error(self._group, error) from error
        finally:
            response.cancel()  # type: ignore[no-untyped-call]

    async def _await_acceptance(self, response: DeploymentResponseGenerator[Any]) -> None:
        try:
            async with asyncio.timeout(self._accept_timeout_s):
                first = await anext(response, None)
        except TimeoutError as error:
            raise NoEngine(f"no replica of group {self._group} took the request in time", retry_after_s=5.0) from error
        if first is None:
            raise EngineDead(f"a replica of group {self._group} ended the stream before it began")


def translate_error(group: str, error: Exception) -> ServeError:
    """Return our error for an exception of a handle. Unexpected exceptions are logged, and the client gets one sentence."""
    match error:
        case BackPressureError():
            return Overloaded(f"group {group} has its queue full; try again later", retry_after_s=1.0)
        case DeploymentUnavailableError():
            return NoEngine(f"group {group} is not available", retry_after_s=5.0)
        case RayActorError() | grpc.RpcError():
            return EngineDead(f"a replica of group {group} died")
        case TaskCancelledError():
            return EngineDead(f"a replica of group {group} dropped the request")
    logger.error("group %s failed", group, exc_info=error)
    return GenerationFailed(f"group {group} failed while generating")


def report_to_ingress(ingress: str, app_name: str) -> Callable[[ReplicaReport], Awaitable[bool]]:
    """Return a function that sends a report to every ingress replica and returns whether it arrived; it never raises."""
    handle = serve.get_deployment_handle(ingress, app_name)

    async def deliver(report: ReplicaReport) -> bool:
        try:
            await handle.broadcast("report", report).results_async(timeout_s=_REPORT_TIMEOUT_S)
        except Exception as error:
            logger.debug("no ingress took the report: %s", type(error).__name__)
            return False
        return True

    return deliver
