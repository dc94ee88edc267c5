"""A browser in front of the scripted server: what every test of the operations page needs.

Whatever a page does wrong without anybody noticing is collected: errors on its console, violations of its policy, requests to other
machines. `open_desk` fails on any of it at its end.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request

from tests.pages.ops_server import Scripted, serving

REFUSED = "Failed to load resource"
"""What Chromium writes to the console about an answer that is an error: news in most tests, the very subject of some."""


@dataclass
class Desk:
    """An open operations page, its server, and what went wrong unseen."""

    page: Page
    scripted: Scripted
    url: str
    faults: list[str] = field(default_factory=list)
    refusals: bool = False
    """Whether error answers are expected."""

    def watch(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        self.page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not (self.refusals and message.text.startswith(REFUSED)):
            self.faults.append(f"console: {message.text}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.faults.append(f"another machine was asked: {request.url}")

    def check(self) -> None:
        assert not self.faults

    async def open(self, fragment: str = "", *, ready: bool = True) -> None:
        """Go to the page; wait until the stream is there unless it will not be `ready`."""
        await self.page.goto("about:blank")
        await self.page.goto(f"{self.url}/ops{fragment}")
        if ready:
            await self.page.locator("#connection", has_text="live").wait_for()

    async def show(self, view: str) -> Locator:
        """Open a view by its link and return it."""
        await self.page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        region = self.page.locator(f"#view-{view.lower()}")
        await region.wait_for()
        return region

    def group(self, name: str) -> Locator:
        return self.page.get_by_role("article", name=name, exact=True)

    def posts(self) -> list[tuple[str, Any]]:
        """Paths below /v1/operations and bodies of what was sent to change something."""
        return [(path.removeprefix("/v1/operations"), body) for method, path, body in self.scripted.calls if method == "POST"]


@asynccontextmanager
async def open_desk(browser: Browser, needs: str = "nothing", **options: Any) -> AsyncIterator[Desk]:
    """Serve a new world and open a page on it, in a context of its own; `options` are the context's."""
    scripted = Scripted(needs)
    async with serving(scripted) as url:
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        context.set_default_timeout(10_000)
        desk = Desk(await context.new_page(), scripted, url)
        desk.watch()
        yield desk
        await context.close()
    desk.check()
