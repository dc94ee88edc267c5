"""A group of replicas that looks like an engine, and the replicas' way back to the ingress.

The one place where Ray's exceptions become ours.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from serve_app.errors import EngineDead, GenerationFailed, NoEngine, Overloaded, ServeError
from serve_app.types import ReplicaReport, TokenEvent, TokenRequest

logger = logging.getLogger(__name__)


class RemoteEngine:
    """Generates on whichever replica of a group Serve picks."""

    def __init__(self, group: str, handle: DeploymentHandle[Any], accept_timeout_s: float) -> None:
        """Configure the handle once; every `.options()` would build another router."""
        self._group = group
        # By value: each batch is one gRPC message instead of an object in Ray's store; 2.3 times the tokens at 32 streams.
        self._generate = handle.options(stream=True, method_name="generate", _by_reference=False)
        self._accept_timeout_s = accept_timeout_s

    async def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield the replica's events; closing the iterator cancels the request there. Raises `ServeError` only.

        Serve waits for ever for a replica to appear, so acceptance (the replica's empty first batch) has a deadline.
        """
        response = cast(DeploymentResponseGenerator[Any], self._generate.remote(request))
        with _translated(self._group):
            try:
                async with asyncio.timeout(self._accept_timeout_s):
                    await anext(response)
                async for batch in response:
                    for event in batch:
                        if isinstance(event, ServeError):
                            raise event
                        yield event
            finally:
                response.cancel()  # type: ignore[no-untyped-call]


@contextmanager
def _translated(group: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise NoEngine(f"no replica of group {group} took the request in time", retry_after_s=5.0) from error
    except ServeError:
        raise
    except RayTaskError as error:
        logger.exception("group %s failed", group)
        raise GenerationFailed(f"group {group} failed while generating") from error
    except BackPressureError as error:
        raise Overloaded(f"group {group} has its queue full; try again later", retry_after_s=1.0) from error
    except DeploymentUnavailableError as error:
        raise NoEngine(f"group {group} is not available", retry_after_s=5.0) from error
    except RayActorError as error:
        raise EngineDead(f"a replica of group {group} died") from error
    except TaskCancelledError as error:
        raise EngineDead(f"a replica of group {group} dropped the request") from error
    except (RayError, RayServeException) as error:
        logger.exception("group %s failed", group)
        raise GenerationFailed(f"group {group} could not be reached") from error


def report_to_ingress(ingress: str, app_name: str) -> Callable[[ReplicaReport], None]:
    """Return a function that tells every ingress replica; it never blocks and never raises."""
    handle = serve.get_deployment_handle(ingress, app_name)
    pending: set[asyncio.Task[None]] = set()

    async def deliver(report: ReplicaReport) -> None:
        try:
            await handle.broadcast("report", report).results_async(timeout_s=5)
        except (RayError, RayServeException, TimeoutError) as error:
            logger.debug("no ingress took the report: %s", type(error).__name__)

    def send(report: ReplicaReport) -> None:
        if len(pending) < 3:
            task = asyncio.get_running_loop().create_task(deliver(report))
            pending.add(task)
            task.add_done_callback(pending.discard)

    return send
