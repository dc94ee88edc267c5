"""No serious fault of accessibility on any page, light and dark, wide and narrow; nothing is wider than the screen."""

import pytest
from playwright.async_api import Browser, Page, expect

from serve_app.http.pages import load_files
from tests.pages.conftest import Watched, judge, open_playground, watch
from tests.pages.site import Site

SCHEMES = ("light", "dark")
WIDTHS = (1280, 390)


async def _open(page: Page, site: Site, name: str) -> None:
    if name == "landing":
        await page.goto(site.url)
        await expect(page.locator(".group")).to_have_count(3)
    elif name == "docs":
        await page.goto(f"{site.url}/docs#post_v1_chat_completions")
        await page.locator("#post_v1_chat_completions .fold > summary").first.click()
    else:
        await open_playground(page, site, name)
        await _use(page, name)


async def _use(page: Page, name: str) -> None:
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    if name == "chat":
        for text in ("markdown", "think first"):
            await prompt.fill(text)
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("article", name="Answer").last).to_contain_text("completion")
        await page.get_by_role("button", name="Candidates").first.click()
        await prompt.fill("What is 15% of 240?")
        await expect(page.get_by_role("list", name="Probabilities of the tasks")).to_be_visible()
    elif name == "compare":
        await page.get_by_role("checkbox", name="slow").uncheck()
        await prompt.fill("differ")
        await page.keyboard.press("Enter")
        await expect(page.locator("mark.first")).to_have_count(1)
    elif name == "tools":
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.get_by_label("Result of get_weather")).to_be_visible()
    elif name == "json":
        await page.get_by_role("button", name="Send", exact=True).click()
        await expect(page.get_by_text("fits the schema", exact=True)).to_be_visible()
    elif name == "prompt":
        await page.get_by_role("button", name="Render").click()
        await expect(page.locator(".token-text").first).not_to_have_text("…")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("docs", "chat", "compare", "tools", "json", "prompt")]


@pytest.mark.parametrize("name", ["landing", *SLOW])
async def test_pages_have_no_serious_fault(browser: Browser, site: Site, watched: Watched, name: str) -> None:
    context = await browser.new_context(reduced_motion="reduce")
    watch(context, site.url, watched)
    page = await context.new_page()
    await _open(page, site, name)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 860})
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            assert await judge(page) == [], (width, scheme)
        wider = await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, width
    await context.close()
    assert not watched.faults


@pytest.mark.slow
async def test_token_probabilities_can_be_read(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.get_by_label("Token probabilities").check()
    await page.get_by_role("textbox", name="Prompt", exact=True).fill("hello")
    await page.keyboard.press("Enter")
    await expect(page.locator("button.token").first).to_be_visible()
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        assert await judge(page) == []


async def test_the_theme_is_chosen_and_kept(page: Page, site: Site) -> None:
    await page.emulate_media(color_scheme="light")
    await page.goto(site.url)
    light = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    for _ in range(2):
        await page.get_by_role("button", name="theme; change").click()
    dark = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert light != dark
    await page.goto(f"{site.url}/docs")
    assert await page.evaluate("() => getComputedStyle(document.body).backgroundColor") == dark


async def test_every_page_has_its_landmarks(page: Page, site: Site) -> None:
    for name in ("landing", "docs", "ui"):
        assert f"{name}/index.html" in load_files()
    for path in ("/", "/docs", "/ui"):
        await page.goto(site.url + path)
        await expect(page.get_by_role("banner")).to_have_count(1)
        await expect(page.get_by_role("main")).to_have_count(1)
        await expect(page.get_by_role("navigation", name="Pages").get_by_role("link")).to_have_count(4)
        await expect(page.get_by_role("heading", level=1).first).to_be_attached()
