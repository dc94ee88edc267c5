"""The pages over the running application, in a browser: an engine killed under a stream, and an operator at work."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from serve_app.access.operator import find_operators
from tests.live import LiveApp
from tests.pages.conftest import Watched, judge, running_browser, watch

pytestmark = pytest.mark.slow
LIMIT_MS = 60_000


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as launched:
        yield launched


@pytest.fixture
async def context(browser: Browser, app: LiveApp) -> AsyncIterator[BrowserContext]:
    watched = Watched()
    made = await browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    made.set_default_timeout(LIMIT_MS)
    watch(made, app.url, watched)
    yield made
    await made.close()
    assert not watched.faults


async def _lengthen(route: Route) -> None:
    """Let the answer run to a bound, as no control of the page does: it must still run when its replica is killed."""
    body = json.loads(route.request.post_data or "{}") | {"max_tokens": 3000, "ignore_eos": True}
    await route.continue_(post_data=json.dumps(body, allow_nan=False))


async def _open_operations(context: BrowserContext, app: LiveApp) -> Page:
    operators = find_operators(app.config["applications"][0]["args"]["access"]["keys_file"])
    page = await context.new_page()
    await page.goto(f"{app.url}/ops#ticket={operators.issue_ticket()}")
    await expect(page.locator("#connection")).to_contain_text("live", timeout=LIMIT_MS)
    assert "ticket" not in page.url
    return page


def _find_busy(app: LiveApp, token: str) -> list[Any]:
    import httpx

    state = httpx.get(f"{app.url}/v1/operations/state", headers={"x-operator-token": token}, timeout=30).json()
    return [replica for group in state["groups"] if group["name"] == "onnx" for replica in group["replicas"] if replica["running"]]


async def test_an_engine_is_killed_under_a_stream(app: LiveApp, context: BrowserContext) -> None:
    await asyncio.to_thread(app.await_replicas, "onnx", 2)
    page = await context.new_page()
    await page.route("**/v1/chat/completions", _lengthen)
    await page.goto(f"{app.url}/ui")
    await page.get_by_label("Group", exact=True).select_option("onnx")
    await page.get_by_role("textbox", name="Prompt", exact=True).fill("Count.")
    await page.keyboard.press("Enter")
    answer = page.get_by_role("article", name="Answer")
    await expect(answer).not_to_be_empty()
    token = find_operators(app.config["applications"][0]["args"]["access"]["keys_file"]).read_secret()
    while not (busy := _find_busy(app, token)):
        await page.wait_for_timeout(200)
    os.kill(busy[0]["pid"], signal.SIGKILL)
    await expect(answer).to_contain_text("continued on onnx", timeout=LIMIT_MS)
    await expect(answer).to_contain_text("completion 3,000", timeout=3 * LIMIT_MS)
    operations = await _open_operations(context, app)
    await operations.get_by_role("navigation", name="Views").get_by_role("link", name="Requests").click()
    await operations.locator("#view-requests tbody").get_by_role("button").first.click()
    dialog = operations.get_by_role("dialog")
    await expect(dialog).to_contain_text("2 attempts")
    await expect(dialog).to_contain_text("engine_dead")
    await asyncio.to_thread(app.await_replicas, "onnx", 2)


async def test_an_operator_drains_a_group_and_resumes_it(app: LiveApp, context: BrowserContext) -> None:
    page = await _open_operations(context, app)
    for group in ("vllm", "onnx", "llama_cpp"):
        await expect(page.locator(f"#group-{group}")).to_contain_text("ready", timeout=LIMIT_MS)
    await expect(page.locator("#group-vllm")).to_contain_text("iB")
    assert await judge(page) == []
    for action, phase in (("Drain", "draining"), ("Resume", "ready")):
        await page.get_by_role("button", name=f"{action} llama_cpp", exact=True).click()
        dialog = page.get_by_role("dialog", name=f"{action} llama_cpp?")
        await dialog.get_by_role("button", name=action, exact=True).click()
        await expect(page.locator("#group-llama_cpp")).to_have_attribute("data-phase", phase, timeout=LIMIT_MS)


@pytest.mark.parametrize("path", ["/", "/ui", "/docs"])
async def test_pages_of_the_running_application_have_no_serious_fault(app: LiveApp, context: BrowserContext, path: str) -> None:
    page = await context.new_page()
    await page.goto(f"{app.url}{path}")
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert await judge(page) == []
