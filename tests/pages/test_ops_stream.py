"""The operations page and its stream: it comes back, says how old its figures are, and updates without disturbing who reads."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from tests.pages.ops_browser import Desk, open_desk

COUNT_ELEMENTS = """() => {
  window.built = 0;
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) if (node.nodeType === Node.ELEMENT_NODE) window.built += 1;
  }).observe(document.getElementById("main"), { childList: true, subtree: true });
}"""
NEXT_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture
async def desk(browser: Browser) -> AsyncIterator[Desk]:
    async with open_desk(browser) as opened:
        await opened.open()
        yield opened


async def test_a_dropped_stream_is_opened_again(desk: Desk) -> None:
    desk.scripted.drop()
    await expect(desk.page.locator("#connection")).to_contain_text("reconnecting")
    await expect(desk.page.locator("#connection")).to_contain_text("live")
    assert desk.scripted.opened > 1
    assert desk.scripted.viewers == 1
    desk.scripted.world.begin(key="after-the-drop")
    desk.scripted.publish()
    await expect(desk.page.get_by_role("table", name="Live requests")).to_contain_text("after-the-drop")


async def test_a_server_that_is_away_is_tried_again_and_the_age_is_said(desk: Desk) -> None:
    desk.refusals = True
    desk.scripted.down = True
    desk.scripted.drop()
    chip = desk.page.locator("#connection")
    await expect(chip).to_contain_text("reconnecting in")
    await expect(chip).to_contain_text("last seen")
    await expect(chip).to_have_attribute("title", "the ingress is restarting", timeout=15_000)  # of the second try
    await expect(desk.group("onnx")).to_be_visible()  # what was known stays
    desk.scripted.down = False
    await desk.page.get_by_role("button", name="Try now").click()
    await expect(chip).to_contain_text("live")
    await expect(desk.page.get_by_role("button", name="Try now")).to_be_hidden()


async def test_old_figures_are_said_to_be_old(desk: Desk) -> None:
    await expect(desk.page.locator("#connection")).to_contain_text("stale, last seen", timeout=15_000)
    desk.scripted.tick()
    await expect(desk.page.locator("#connection")).to_contain_text("live")


async def test_a_pause_keeps_everything_for_later(desk: Desk) -> None:
    await desk.page.get_by_role("button", name="Pause").click()
    await expect(desk.page.locator("#connection")).to_contain_text("paused")
    desk.scripted.world.begin(key="during-the-pause")
    desk.scripted.tick()
    desk.scripted.measure()
    await desk.page.evaluate(NEXT_FRAMES)
    table = desk.page.get_by_role("table", name="Live requests")
    await expect(table).not_to_contain_text("during-the-pause")
    await desk.page.get_by_role("button", name="Continue").click()
    await expect(table).to_contain_text("during-the-pause")


async def test_the_same_state_builds_nothing(desk: Desk) -> None:
    await desk.page.evaluate(COUNT_ELEMENTS)
    for _ in range(3):
        desk.scripted.publish()
        await desk.page.evaluate(NEXT_FRAMES)
    assert await desk.page.evaluate("window.built") == 0


async def test_an_update_leaves_focus_selection_and_open_details(desk: Desk) -> None:
    await desk.group("vllm").get_by_text("2 replicas").click()  # closes
    button = desk.page.get_by_role("button", name="Drain onnx", exact=True)
    await button.focus()
    await desk.page.evaluate("() => getSelection().selectAllChildren(document.querySelector('#group-onnx h3'))")
    for _ in range(3):
        desk.scripted.tick()
        await desk.page.evaluate(NEXT_FRAMES)
    await expect(button).to_be_focused()
    assert await desk.page.evaluate("() => getSelection().toString()") == "onnx"
    await expect(desk.page.get_by_role("table", name="Replicas of vllm", exact=True)).to_be_hidden()
    await expect(desk.page.get_by_role("table", name="Replicas of onnx", exact=True)).to_be_visible()


async def test_the_focus_moves_on_when_its_row_goes(desk: Desk) -> None:
    first, second = list(desk.scripted.world.live)[:2]
    await desk.page.get_by_role("button", name=f"Cancel {first}", exact=True).focus()
    desk.scripted.world.end(first)
    desk.scripted.publish()
    await expect(desk.page.get_by_role("button", name=f"Cancel {second}", exact=True)).to_be_focused()


async def test_the_frame_stays_where_it_is(desk: Desk) -> None:
    """What changes every two seconds changes no place: neither of the groups nor of the charts."""
    where = "() => [...document.querySelectorAll('.group-actions, .tile')].map((each) => each.getBoundingClientRect().left)"
    before = await desk.page.evaluate(where)
    for group in desk.scripted.world.groups.values():
        for each in group["replicas"]:
            each.update(tokens_per_second=1234.5, running=16)
    desk.scripted.publish()
    await expect(desk.group("onnx")).to_contain_text("2,469")
    assert await desk.page.evaluate(where) == before
    await desk.show("Traffic")
    heights = "() => [...document.querySelectorAll('.chart')].map((each) => each.getBoundingClientRect().top)"
    before = await desk.page.evaluate(heights)
    for _ in range(3):
        desk.scripted.measure()
        await desk.page.evaluate(NEXT_FRAMES)
    assert await desk.page.evaluate(heights) == before


async def test_a_page_out_of_sight_lets_go_of_its_stream(browser: Browser) -> None:
    hide = "(hidden) => {Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    hide += "document.dispatchEvent(new Event('visibilitychange'))}"
    async with open_desk(browser) as desk:
        await desk.page.clock.install()
        await desk.open()
        await desk.page.evaluate(hide, True)
        await desk.page.clock.fast_forward(61_000)
        await expect(desk.page.locator("#connection")).to_contain_text("resting while out of sight")
        await desk.page.evaluate(hide, False)
        await expect(desk.page.locator("#connection")).to_contain_text("live")
        assert desk.scripted.viewers == 1


async def test_one_page_opens_one_stream_and_asks_no_more(desk: Desk) -> None:
    for _ in range(5):
        desk.scripted.tick()
        await desk.page.evaluate(NEXT_FRAMES)
    assert desk.scripted.viewers == 1
    assert [path for _, path, _ in desk.scripted.calls] == ["/v1/operations"]
