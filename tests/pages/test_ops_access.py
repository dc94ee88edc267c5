"""Who may see the operations page: tickets, keys, and what happens when the server no longer agrees."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, expect

from tests.pages.ops_browser import Desk, open_desk
from tests.pages.ops_data import TOKEN
from tests.pages.ops_server import KEY, TICKET, WEAK_KEY


@pytest.fixture
async def desk(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    async with open_desk(browser, request.param) as opened:
        opened.refusals = True
        yield opened


async def _enter(desk: Desk, secret: str) -> None:
    await desk.page.get_by_label("API key, or ticket from the terminal").fill(secret)
    await desk.page.get_by_role("button", name="Sign in").click()


async def _is_in(desk: Desk) -> None:
    await expect(desk.page.locator("#connection")).to_contain_text("live")
    await expect(desk.page.get_by_label("API key, or ticket from the terminal")).to_be_hidden()


@pytest.mark.parametrize("desk", ["ticket"], indirect=True)
async def test_a_ticket_in_the_address_opens_a_session_and_leaves_the_address(desk: Desk) -> None:
    await desk.open(f"#ticket={TICKET}")
    assert "ticket" not in desk.page.url
    assert TICKET not in await desk.page.evaluate("JSON.stringify(sessionStorage) + JSON.stringify(localStorage)")
    await desk.page.reload()
    await _is_in(desk)  # by the session
    assert await desk.page.evaluate("JSON.stringify(localStorage)") == "{}"


@pytest.mark.parametrize("desk", ["ticket"], indirect=True)
async def test_a_ticket_works_once(desk: Desk) -> None:
    desk.scripted.ticket = None
    await desk.open(f"#ticket={TICKET}", ready=False)
    await expect(desk.page.get_by_role("alert")).to_have_text("this ticket is unknown or was used before")
    assert "ticket" not in desk.page.url
    desk.scripted.ticket = TICKET
    await _enter(desk, TICKET)
    await _is_in(desk)


@pytest.mark.parametrize("desk", ["key"], indirect=True)
async def test_a_key_opens_the_page(desk: Desk) -> None:
    await desk.open(ready=False)
    await expect(desk.page.get_by_label("API key, or ticket from the terminal")).to_be_focused()
    await _enter(desk, KEY)
    await _is_in(desk)
    assert not desk.page.url.endswith(KEY)


@pytest.mark.parametrize(("desk", "secret"), [("key", WEAK_KEY), ("key", "sk-unknown"), ("ticket", "no-ticket")], indirect=["desk"])
async def test_others_stay_outside_and_are_told_why(desk: Desk, secret: str) -> None:
    await desk.open(ready=False)
    await _enter(desk, secret)
    words = "scope operate" if desk.scripted.needs == "key" else "each works once"
    await expect(desk.page.get_by_role("alert")).to_contain_text(words)
    await expect(desk.page.locator("#bar")).to_be_hidden()
    assert secret not in await desk.page.evaluate("JSON.stringify(sessionStorage)")
    assert not desk.scripted.opened


@pytest.mark.parametrize("desk", ["ticket"], indirect=True)
async def test_a_session_that_ends_asks_again(desk: Desk) -> None:
    await desk.open(f"#ticket={TICKET}")
    desk.scripted.needs = "key"  # keys were made meanwhile
    desk.scripted.drop()
    await expect(desk.page.get_by_role("alert")).to_have_text("this needs an API key")
    await expect(desk.page.locator("#view-overview")).to_be_hidden()
    await _enter(desk, KEY)
    await _is_in(desk)
    await expect(desk.group("onnx")).to_be_visible()


@pytest.mark.parametrize("desk", ["ticket"], indirect=True)
async def test_an_action_after_the_session_asks_again(desk: Desk) -> None:
    await desk.open(f"#ticket={TICKET}")
    desk.scripted.needs = "key"
    await desk.page.get_by_role("button", name="Restart onnx", exact=True).click()
    await desk.page.get_by_role("dialog").get_by_role("button", name="Restart", exact=True).click()
    await expect(desk.page.get_by_role("alert")).to_have_text("this needs an API key")
    await expect(desk.page.get_by_role("dialog")).to_be_hidden()
    await expect(desk.page.get_by_label("API key, or ticket from the terminal")).to_be_focused()


@pytest.mark.parametrize("desk", ["key"], indirect=True)
async def test_who_signs_out_is_forgotten(desk: Desk) -> None:
    await desk.open(ready=False)
    await _enter(desk, KEY)
    await _is_in(desk)
    await desk.page.get_by_role("button", name="Sign out").click()
    await expect(desk.page.get_by_label("API key, or ticket from the terminal")).to_be_visible()
    stored = await desk.page.evaluate("JSON.stringify(sessionStorage) + JSON.stringify(localStorage)")
    assert KEY not in stored
    assert TOKEN["token"] not in stored


@pytest.mark.parametrize("desk", ["nothing"], indirect=True)
async def test_an_action_that_is_forbidden_says_so(desk: Desk) -> None:
    await desk.open()
    desk.scripted.refuse("/drain", 403, "requests of other origins are refused")
    await desk.page.get_by_role("button", name="Drain onnx", exact=True).click()
    dialog = desk.page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Drain", exact=True).click()
    await expect(dialog.get_by_role("alert")).to_have_text("requests of other origins are refused")
    await expect(desk.page.locator("#bar")).to_be_visible()
