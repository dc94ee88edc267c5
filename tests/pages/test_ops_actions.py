"""Every action of the operations page: it says its effect, does nothing before it is confirmed, and shows what came of it."""

import json
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Locator, expect

from tests.pages.ops_browser import Desk, open_desk


@pytest.fixture
async def desk(browser: Browser) -> AsyncIterator[Desk]:
    async with open_desk(browser) as opened:
        await opened.open()
        yield opened


async def _ask(desk: Desk, button: str, title: str) -> Locator:
    await desk.page.get_by_role("button", name=button, exact=True).click()
    dialog = desk.page.get_by_role("dialog", name=title)
    await expect(dialog).to_be_visible()
    return dialog


async def _confirm(desk: Desk, dialog: Locator, action: str, says: str) -> None:
    assert not desk.posts()
    await dialog.get_by_role("button", name=action, exact=True).click()
    await expect(dialog).to_be_hidden()
    await expect(desk.page.locator("#toasts")).to_contain_text(says)
    await expect(desk.page.locator("#announcements")).to_contain_text(says)


def _sent(desk: Desk) -> list[tuple[str, object]]:
    return [(path, json.loads(body or "{}")) for path, body in desk.posts()]


async def test_a_group_is_drained_and_resumed(desk: Desk) -> None:
    running = sum(each["running"] for each in desk.scripted.world.groups["onnx"]["replicas"])
    dialog = await _ask(desk, "Drain onnx", "Drain onnx?")
    await expect(dialog).to_contain_text(f"{running} request")
    await expect(dialog).to_contain_text("under way will end; nothing new is sent.")
    await _confirm(desk, dialog, "Drain", "Draining x1y2, x3z4")
    assert _sent(desk) == [("/groups/onnx/drain", {})]
    await expect(desk.group("onnx")).to_contain_text("draining")
    desk.scripted.calls.clear()
    dialog = await _ask(desk, "Resume onnx", "Resume onnx?")
    await _confirm(desk, dialog, "Resume", "Resumed x1y2, x3z4.")
    assert _sent(desk) == [("/groups/onnx/resume", {})]
    await expect(desk.page.get_by_role("button", name="Resume onnx", exact=True)).to_be_hidden()


async def test_one_replica_is_drained_and_resumed(desk: Desk) -> None:
    dialog = await _ask(desk, "Drain replica x3z4", "Drain replica x3z4 of onnx?")
    await expect(dialog).to_contain_text("The group's other replicas take its requests.")
    await _confirm(desk, dialog, "Drain", "Draining x3z4")
    assert _sent(desk) == [("/groups/onnx/drain", {"replica": "x3z4"})]
    desk.scripted.calls.clear()
    await _confirm(desk, await _ask(desk, "Resume replica x3z4", "Resume replica x3z4 of onnx?"), "Resume", "Resumed x3z4.")
    assert _sent(desk) == [("/groups/onnx/resume", {"replica": "x3z4"})]


async def test_a_group_is_restarted(desk: Desk) -> None:
    dialog = await _ask(desk, "Restart vllm", "Restart vllm?")
    await expect(dialog).to_contain_text("2 replicas, one after the other: drained, ended, replaced.")
    await _confirm(desk, dialog, "Restart", "Restarting v1w2, v9q0 of vllm")
    assert _sent(desk) == [("/groups/vllm/restart", {})]
    await expect(desk.group("vllm")).to_contain_text("starting")


@pytest.mark.parametrize(("least", "most", "body"), [("1", "3", {"min": 1, "max": 3}), ("3", "", {"min": 3})])
async def test_a_group_is_scaled(desk: Desk, least: str, most: str, body: dict[str, int]) -> None:
    dialog = await _ask(desk, "Scale onnx", "Scale onnx")
    await expect(dialog).to_contain_text("Now 2 to 4 replicas, 2 exist.")
    await dialog.get_by_label("Minimum").fill(least)
    await dialog.get_by_label("Maximum").fill(most)
    await _confirm(desk, dialog, "Scale", f"onnx: 2 to 4 replicas before, {least} to")
    assert _sent(desk) == [("/groups/onnx/scale", body)]


async def test_a_scale_needs_a_minimum(desk: Desk) -> None:
    dialog = await _ask(desk, "Scale onnx", "Scale onnx")
    await dialog.get_by_label("Minimum").fill("")
    await dialog.get_by_role("button", name="Scale", exact=True).click()
    await expect(dialog).to_be_visible()
    assert not desk.posts()


async def test_a_sleeping_group_is_woken(desk: Desk) -> None:
    await _confirm(desk, await _ask(desk, "Wake spare", "Wake spare?"), "Wake", "spare is starting.")
    assert _sent(desk) == [("/groups/spare/wake", {})]
    await expect(desk.group("spare")).to_contain_text("starting")
    await expect(desk.page.get_by_role("button", name="Wake spare", exact=True)).to_be_hidden()


async def test_a_live_request_is_cancelled(desk: Desk) -> None:
    name = next(iter(desk.scripted.world.live))
    dialog = await _ask(desk, f"Cancel {name}", "Cancel this request?")
    await expect(dialog).to_contain_text(f"{name} of ")
    await _confirm(desk, dialog, "Cancel the request", f"Cancelled {name}.")
    assert _sent(desk) == [(f"/requests/{name}/cancel", {})]
    await expect(desk.page.get_by_role("table", name="Live requests")).not_to_contain_text(name)


async def test_nothing_is_done_unless_it_is_confirmed(desk: Desk) -> None:
    opener = desk.page.get_by_role("button", name="Restart onnx", exact=True)
    dialog = await _ask(desk, "Restart onnx", "Restart onnx?")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await desk.page.keyboard.press("Enter")
    await expect(dialog).to_be_hidden()
    await expect(opener).to_be_focused()
    dialog = await _ask(desk, "Restart onnx", "Restart onnx?")
    await desk.page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    assert not desk.posts()


async def test_a_refusal_is_shown_where_it_was_asked(desk: Desk) -> None:
    desk.refusals = True
    desk.scripted.refuse("/scale", 409, "the maximum is below the minimum of the configuration")
    dialog = await _ask(desk, "Scale onnx", "Scale onnx")
    await dialog.get_by_role("button", name="Scale", exact=True).click()
    await expect(dialog.get_by_role("alert")).to_have_text("the maximum is below the minimum of the configuration")
    desk.scripted.refusals.clear()
    await dialog.get_by_role("button", name="Scale", exact=True).click()  # the same dialog, once more
    await expect(dialog).to_be_hidden()


async def test_a_request_that_ended_meanwhile_cannot_be_cancelled(desk: Desk) -> None:
    desk.refusals = True
    name = next(iter(desk.scripted.world.live))
    dialog = await _ask(desk, f"Cancel {name}", "Cancel this request?")
    desk.scripted.world.end(name)
    desk.scripted.publish()
    await dialog.get_by_role("button", name="Cancel the request").click()
    await expect(dialog.get_by_role("alert")).to_have_text(f"the request {name} does not run")


async def test_groups_offer_what_can_be_done(desk: Desk) -> None:
    for group, offered, absent in (
        ("spare", ["Wake", "Scale"], ["Drain", "Resume", "Restart"]),
        ("llama_cpp", ["Restart", "Scale"], ["Wake", "Drain", "Resume"]),
        ("onnx_int4", ["Resume", "Restart", "Scale"], ["Wake", "Drain"]),
        ("encoder", ["Drain", "Restart"], ["Wake", "Resume", "Scale"]),
    ):
        for action in offered:
            await expect(desk.page.get_by_role("button", name=f"{action} {group}", exact=True)).to_be_visible()
        for action in absent:
            await expect(desk.page.get_by_role("button", name=f"{action} {group}", exact=True)).to_be_hidden()
