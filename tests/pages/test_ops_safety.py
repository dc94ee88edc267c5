"""Safety and accessibility of the operations page: markup stays text, no request leaves, axe finds no serious fault."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from tests.pages import ops_data as data
from tests.pages.conftest import judge
from tests.pages.ops_browser import Desk, open_desk

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><b id=injected>bold</b>"
VIEWS = ("Overview", "Requests", "Traffic", "Configuration", "Logs")


@pytest.fixture
async def desk(browser: Browser) -> AsyncIterator[Desk]:
    async with open_desk(browser) as opened:
        await opened.open()
        yield opened


async def test_texts_of_the_server_stay_texts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    world = desk.scripted.world
    error = {"at": world.now, "message": MARKUP}
    phases = data.timeline(world.now, ("failed", 5, MARKUP))
    replicas = [data.replica(world.now, MARKUP, phases, node=MARKUP, last_error=error)]
    world.groups = {
        MARKUP: data.group(MARKUP, replicas, model=MARKUP, precision=MARKUP, reason=MARKUP, fix=MARKUP),
        "onnx": world.groups["onnx"],
    }
    words = {"key": MARKUP, "model": MARKUP, "task": MARKUP, "reason": MARKUP}
    name = world.begin(group="onnx", **words)
    world.live[name] |= {"id": MARKUP, "group": MARKUP}
    strange = data.finished(MARKUP, world.now, outcome=MARKUP, group=MARKUP, **words)
    world.finished.insert(0, strange)
    candidates = [data.candidate(MARKUP, MARKUP)]
    world.details[MARKUP] = data.detail(strange, candidates, [data.attempt(0, MARKUP, MARKUP, MARKUP)])
    world.history.append(data.point(world.now, flow={MARKUP: {MARKUP: 3}}, replicas={MARKUP: 1}))
    monkeypatch.setitem(data.CONFIGURATION["args"], MARKUP, {MARKUP: MARKUP})
    monkeypatch.setitem(data.DIFF, "changes", [{"path": MARKUP, "running": MARKUP, "file": {MARKUP: 1}}])
    desk.scripted.send("hello", world.hello())
    await expect(desk.page.get_by_role("article", name=MARKUP)).to_be_visible()
    for view in VIEWS:
        region = await desk.show(view)
        await expect(region.get_by_text("<b id=injected>").first).to_be_attached()
    await desk.show("Configuration")
    await desk.page.get_by_placeholder("Paste a serve_config.yaml").fill("routing:")
    await desk.page.get_by_role("button", name="Compare").click()
    await expect(desk.page.get_by_role("table", name="Differences")).to_contain_text(MARKUP)
    desk.refusals = True  # the id has slashes, so the server knows no such path
    await desk.show("Requests")
    await desk.page.locator("#view-requests").get_by_role("button", name=MARKUP).first.click()
    await expect(desk.page.get_by_role("dialog")).to_contain_text(MARKUP)
    assert "owned" not in await desk.page.title()
    assert await desk.page.locator("#injected").count() == 0


async def test_other_origins_are_never_asked_and_nothing_is_inline(desk: Desk) -> None:
    for view in VIEWS:
        await desk.show(view)
    assert await desk.page.locator("[onclick], main style, body script, [style*=url]").count() == 0
    origins = await desk.page.evaluate("() => performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)")
    assert set(origins) == {desk.url}


async def _judge_all(desk: Desk, label: str) -> None:
    for width in (1280, 390):
        await desk.page.set_viewport_size({"width": width, "height": 844})
        for scheme in ("light", "dark"):
            await desk.page.emulate_media(color_scheme=scheme)
            assert await judge(desk.page) == [], (label, width, scheme)


@pytest.mark.parametrize("view", [VIEWS[0], *(pytest.param(view, marks=pytest.mark.slow) for view in VIEWS[1:])])
async def test_axe_finds_nothing_grave(desk: Desk, view: str) -> None:
    await desk.show(view)
    await _judge_all(desk, view)


@pytest.mark.slow
async def test_axe_finds_nothing_grave_in_dialogs(desk: Desk) -> None:
    await desk.page.get_by_role("button", name="Scale onnx", exact=True).click()
    await _judge_all(desk, "a dialog")
    await desk.page.keyboard.press("Escape")
    await desk.page.set_viewport_size({"width": 1280, "height": 844})
    await desk.show("Requests")
    await desk.page.locator("#view-requests tbody").get_by_role("button").first.click()
    await expect(desk.page.get_by_role("dialog").get_by_role("table", name="Candidates")).to_be_visible()
    await _judge_all(desk, "a request")


async def test_axe_finds_nothing_grave_in_the_form(browser: Browser) -> None:
    async with open_desk(browser, "key") as desk:
        await desk.open(ready=False)
        await desk.page.get_by_role("button", name="Sign in").wait_for()
        await _judge_all(desk, "the form")


@pytest.mark.parametrize("width", [390, 820])
async def test_small_screens_scroll_in_one_direction(browser: Browser, width: int) -> None:
    async with open_desk(browser, viewport={"width": width, "height": 844}) as desk:
        await desk.open()
        for view in VIEWS:
            await desk.show(view)
            assert await desk.page.evaluate("document.documentElement.scrollWidth") <= width, view
        await desk.show("Overview")
        button = desk.page.get_by_role("button", name="Drain replica x1y2")
        await button.scroll_into_view_if_needed()
        box = await button.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= width - box["width"]


async def test_the_keyboard_suffices(desk: Desk) -> None:
    """From the top to a drained group and to a request's story, without a pointer."""
    keys = desk.page.keyboard
    await keys.press("Tab")
    await expect(desk.page.locator("#skip")).to_be_focused()
    await keys.press("Enter")
    await expect(desk.page.locator("#main")).to_be_focused()
    for _ in range(40):
        await keys.press("Tab")
        if await desk.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Drain onnx":
            break
    await keys.press("Enter")
    await expect(desk.page.get_by_role("dialog", name="Drain onnx?")).to_be_visible()
    await keys.press("Tab")
    await keys.press("Enter")
    await expect(desk.page.locator("#toasts")).to_contain_text("Draining x1y2")
