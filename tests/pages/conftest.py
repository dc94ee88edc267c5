"""A browser, the application over fake engines, and a page that notes what it must not do."""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.cluster.fetch_browser import AXE, FLAGS, find_chromium
from tests.pages.site import Site, serve

expect.set_options(timeout=30_000)  # a busy machine is no fault of a page

LIMITS = {"max_body_bytes": 200_000, "request_timeout_s": 60}
THINKS = {"think_tags": ["<think>", "</think>"], "aliases": ["phi4-mini"]}
MARKDOWN = """A **bold** list:

1. one
2. two `inline`

```python
print("code")
```

| a | b |
|---|---|
| 1 | 2 |

A [link](https://example.com/x), [another](javascript:alert(1)) and ![image](https://example.com/i.png)."""
HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">

[click](javascript:window.hacked=1) [data](data:text/html,<script>window.hacked=1</script>)

<a href="javascript:window.hacked=1">html</a>

```html
<img src=x onerror="window.hacked = 1">
```

| <script>window.hacked=1</script> | <b>b</b> |
|---|---|
| ![x](javascript:window.hacked=1) | <svg onload="window.hacked=1"> |"""
REPLIES = [
    {
        "when": "weather",
        "text": '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "unit": "kelvin"}}]<|/tool_call|>',
    },
    {"when": "Describe Paris", "text": '{"name": "Paris", "population": 2100000, "capital": true}'},
    {"when": "Describe nothing", "text": '{"name": "Paris", "population": "many"}'},
    {"when": "think first", "text": "<think>First I weigh it.</think>Then I answer."},
    {"when": "hostile", "text": HOSTILE},
    {"when": "markdown", "text": MARKDOWN},
    {"when": "differ", "text": "The sky is blue, and the sea is blue too."},
    {"when": "long", "text": "Again and again, and again. " * 60},
]
FAST = {"tokens_per_second": 2000, "structured": True, "text": "Hello from the first group.", "replies": REPLIES}
OTHER = FAST | {
    "replies": [
        each if each["when"] != "differ" else each | {"text": "The sky is grey, and the sea is blue too."} for each in REPLIES
    ]
}
SLOW = {"tokens_per_second": 40, "structured": True, "text": "Slow and steady. " * 40}


QUICK = frozenset(
    {
        "test_a_prompt_is_answered_with_its_route_and_figures",
        "test_what_a_model_writes_is_never_run",
        "test_groups_are_compared",
        "test_the_landing_page_shows_what_runs",
        "test_the_reference_shows_every_endpoint",
        "test_the_head_says_how_it_stands",
        "test_what_needs_attention_comes_first_with_its_cure",
        "test_a_request_tells_why_it_went_where_it_went",
    }
)
"""One test of each panel; the others that need a browser are slow tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder that start a browser as slow."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        is_here = item.path.parent.name == "pages"
        if is_here and "browser" in names and getattr(item, "originalname", "") not in QUICK:
            item.add_marker(pytest.mark.slow)


@dataclass
class Watched:
    """What pages did since the test began."""

    faults: list[str] = field(default_factory=list)
    """Errors in the console, violations of the policy and requests to other servers."""


@contextlib.asynccontextmanager
async def running_browser() -> AsyncIterator[Browser]:
    """Start a browser; skips the test where there is none."""
    found = find_chromium()
    if found is None:
        pytest.skip("there is no chromium on PATH or in .cache/tools; `make tools` fetches one")  # nothing else can show a page
    program, environment = found
    async with async_playwright() as playwright:
        # The library makes a new empty profile for each start.
        launched = await playwright.chromium.launch(executable_path=program, args=list(FLAGS), env={**os.environ, **environment})
        yield launched
        await launched.close()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as launched:
        yield launched


@pytest.fixture(scope="session")
async def site() -> AsyncIterator[Site]:
    settings = {"limits": LIMITS, "models": {"phi-4-mini-instruct": THINKS}}
    engines: dict[str, dict[str, Any]] = {"onnx": dict(FAST), "vllm": dict(OTHER), "slow": dict(SLOW)}
    async with serve(settings, **engines) as found:
        yield found


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
async def context(browser: Browser, site: Site, watched: Watched) -> AsyncIterator[BrowserContext]:
    made = await browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    watch(made, site.url, watched)
    with contextlib.suppress(Exception):  # a context that is gone already has nothing to grant
        await made.grant_permissions(["clipboard-read", "clipboard-write"])
    yield made
    await made.close()
    assert not watched.faults


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


def watch(context: BrowserContext, url: str, watched: Watched) -> None:
    """Note what no page may do: errors, violations, requests to others."""

    def note(message: Any) -> None:
        # The browser itself reports refused requests; tests that provoke them look at the page.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            watched.faults.append(f"{message.type}: {message.text}")

    context.on("console", note)
    context.on("weberror", lambda error: watched.faults.append(str(error.error)))
    context.on("request", lambda request: None if request.url.startswith(f"{url}/") else watched.faults.append(request.url))


async def open_playground(page: Page, site: Site, panel: str = "chat") -> None:
    """Open a panel of the playground, and wait until it knows the models."""
    await page.goto(f"{site.url}/ui#{panel}")
    await page.locator("#settings select option").first.wait_for(state="attached")


async def judge(page: Page) -> list[str]:
    """Return axe-core's serious and critical faults of a page as it is."""
    if not AXE.exists():
        pytest.skip("axe-core is not in .cache/tools; `make tools` fetches it")  # there is no other judge
    await page.evaluate(AXE.read_text())
    found = await page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        f"{each['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
