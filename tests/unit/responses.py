"""OpenAI's SDK over the whole application in-process, for the suites of the Responses API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai

from tests.unit.app import App, running


@asynccontextmanager
async def sdk(extra: dict[str, Any] | None = None, **engine: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, App]]:
    """Serve a fake group `a`, which answers "Noted." unless `engine` says otherwise, as the model `phi`."""
    async with running({"models": {"phi": {}}} | (extra or {}), a={"text": "Noted."} | engine) as app:
        yield openai.AsyncOpenAI(base_url="http://test/v1", api_key="x", http_client=app.client, max_retries=0), app


def read_prompt(app: App) -> str:
    """Return the prompt of the group's last request."""
    return app.gateway.catalog.resolve(None).model.decode_ids(app.engines["a"].requests[-1].prompt)
