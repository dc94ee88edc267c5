"""The other panels of the playground, the landing page and the API reference."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Route, expect

from serve_app.access.keys import Key, KeyList, hash_key, make_key
from tests.pages.conftest import FAST, LIMITS, Watched, open_playground, watch
from tests.pages.site import Site, serve


async def test_groups_are_compared(page: Page, site: Site) -> None:
    await open_playground(page, site, "compare")
    await page.get_by_role("checkbox", name="slow").uncheck()
    await page.get_by_role("textbox", name="Prompt", exact=True).fill("differ")
    await page.get_by_role("button", name="Compare", exact=True).click()
    await expect(page.get_by_text(re.compile(r"vllm parts from onnx at token \d+"))).to_be_visible()
    other = page.get_by_role("article", name="Answer of vllm")
    await expect(other).to_contain_text("The sky is")
    await expect(other.locator("mark.first")).to_have_count(1)
    assert "blue too" not in "".join(await other.locator("mark").all_text_contents())
    await expect(page.get_by_role("article", name="Answer of onnx").locator("mark")).to_have_count(0)
    await expect(other).to_contain_text("tok/s")
    await page.get_by_role("textbox", name="Prompt", exact=True).fill("the same")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("All answers are the same, token by token.")).to_be_visible()


async def test_tools_are_called_and_answered(page: Page, site: Site) -> None:
    await open_playground(page, site, "tools")
    await page.get_by_role("textbox", name="Tools").fill('[{"type": "function"')
    await expect(page.get_by_text(re.compile("^No JSON"))).to_be_visible()
    await page.reload()
    await page.locator("#settings select option").first.wait_for(state="attached")
    await expect(page.get_by_label("Tool choice").get_by_role("option")).to_have_count(4)
    await page.get_by_role("button", name="Send", exact=True).click()
    answer = page.get_by_role("article", name="Answer")
    await expect(answer).to_contain_text("get_weather")
    await expect(answer).to_contain_text("Arguments do not fit the schema")
    await page.get_by_label("Result of get_weather").fill('{"temperature": 21}')
    async with page.expect_request("**/v1/chat/completions") as sent:
        await page.get_by_role("button", name="Send results").click()
    messages = json.loads((await sent.value).post_data or "")["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool"]
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]
    await expect(page.get_by_role("article", name="Result of get_weather")).to_contain_text("21")


async def test_answers_are_held_to_a_schema(page: Page, site: Site) -> None:
    await open_playground(page, site, "json")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.get_by_text("fits the schema", exact=True)).to_be_visible()
    await page.get_by_role("textbox", name="Prompt", exact=True).fill("Describe nothing")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("does not fit the schema")).to_be_visible()
    await page.get_by_role("spinbutton", name="Max tokens").fill("3")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.get_by_text("cut short at its token limit")).to_be_visible()


async def test_the_prompt_is_shown_with_its_ids(page: Page, site: Site) -> None:
    await open_playground(page, site, "prompt")
    await page.get_by_label("Text", exact=True).fill("hello")
    await page.get_by_role("button", name="Render").click()
    rendered = page.get_by_role("region", name="Rendered prompt")
    await expect(rendered).to_contain_text("<|user|>hello<|end|><|assistant|>")
    tokens = rendered.get_by_role("list", name="Tokens and their ids").get_by_role("listitem")
    await expect(tokens.first).to_contain_text("<|user|>")
    await page.get_by_label("What to render").select_option("raw")
    await page.get_by_role("button", name="Render").click()
    await expect(tokens.first).not_to_contain_text("<|user|>")


@pytest.mark.parametrize(
    ("panel", "button", "answer"),
    [
        ("chat", "", "Hello from the first group."),
        ("compare", "Compare", "Answer of vllm"),
        ("tools", "Send", "Arguments do not fit the schema"),
        ("json", "Send", "fits the schema"),
        ("prompt", "Render", "Copy ids"),
    ],
)
async def test_what_is_sent_before_the_models_are_known_waits_for_them(
    page: Page, site: Site, panel: str, button: str, answer: str
) -> None:
    known = asyncio.Event()

    async def hold(route: Route) -> None:
        await known.wait()
        await route.continue_()

    await page.route("**/v1/models", hold)
    await page.goto(f"{site.url}/ui#{panel}")
    if button:
        if panel == "compare":
            await page.get_by_role("textbox", name="Prompt", exact=True).fill("the same")
        await page.get_by_role("button", name=button, exact=True).click()
    else:
        await page.get_by_role("textbox", name="Prompt", exact=True).fill("hello")
        await page.keyboard.press("Enter")
    shown = page.locator(f"#panel-{panel}")
    await expect(shown.get_by_role("article", name="Answer")).to_have_count(0)
    known.set()
    found = shown.get_by_role("article", name=answer) if panel == "compare" else shown.get_by_text(answer)
    await expect(found.first).to_be_visible()


async def test_the_landing_page_shows_what_runs(page: Page, site: Site) -> None:
    await page.goto(site.url)
    await expect(page.get_by_role("status").first).to_have_text("Everything is ready")
    await expect(page.locator(".group")).to_have_count(3)
    await page.get_by_role("button", name="Copy the address for OpenAI").click()
    assert await page.evaluate("() => navigator.clipboard.readText()") == f"{site.url}/v1"
    for name, path in (("Playground", "/ui"), ("Operations", "/ops"), ("API reference", "/docs")):
        link = page.get_by_role("navigation", name="Start here").get_by_role("link", name=name)
        assert await link.get_attribute("href") == path


async def test_the_reference_shows_every_endpoint(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/docs")
    document = (await site.app.client.get("/openapi.json")).json()
    count = sum(len(verbs) for verbs in document["paths"].values())
    await expect(page.get_by_text(f"{count} of {count} endpoints")).to_be_visible()
    for endpoint in await page.locator("details.endpoint > summary").all():
        assert await endpoint.locator(".what").text_content(), await endpoint.text_content()
    assert (
        await page.evaluate("""() => {
        for (const node of document.querySelectorAll('details.endpoint')) node.open = true;
        return new Promise(done => setTimeout(done, 300));
    }""")
        is None
    )
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
        await expect(page.locator("details.endpoint", has_text=path).first).to_contain_text("curl")


async def test_the_reference_filters_and_links(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/docs#post_v1_chat_completions")
    endpoint = page.locator("#post_v1_chat_completions")
    await expect(endpoint.get_by_text("x-session-id")).to_be_visible()
    await endpoint.get_by_text("OpenaiChatMessage", exact=True).first.click()
    await expect(endpoint.get_by_text("tool_call_id")).to_be_visible()
    await page.get_by_label("Filter").fill("tokenize")
    await expect(page.get_by_text("2 of ")).to_be_visible()
    await expect(page.locator("details.endpoint:visible")).to_have_count(2)


async def test_schemas_that_contain_themselves_end(page: Page, site: Site) -> None:
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}}}
    answer = {"description": "y", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Loop"}}}}
    child, text = {"$ref": "#/components/schemas/Node"}, {"type": "string", "description": "<b>x</b>"}
    schemas = {
        "Node": {"type": "object", "properties": {"child": child, "text": text}, "required": ["child"]},
        "Loop": {"$ref": "#/components/schemas/Loop"},
    }
    operation = {"operationId": "post_x", "tags": ["a"], "requestBody": body, "responses": {"200": answer}}
    document = {"info": {"title": "x", "version": "1"}, "components": {"schemas": schemas}, "paths": {"/x": {"post": operation}}}
    await page.route("**/openapi.json", lambda route: route.fulfill(json=document))
    await page.goto(f"{site.url}/docs#post_x")
    for _ in range(3):
        await page.locator("#post_x .fold:not([open]) > summary").last.click()
    await expect(page.get_by_text("<b>x</b>").first).to_be_visible()


async def test_a_key_is_asked_for_where_one_is_needed(browser: Browser, watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = make_key()
    file.write_text(KeyList(keys=(Key(name="user", sha256=hash_key(key)),)).model_dump_json())
    settings = {"limits": LIMITS, "models": {"phi": {}}, "access": {"keys_file": str(file), "journal_dir": None}}
    async with serve(settings, onnx=FAST | {"model": "phi"}) as guarded:
        context = await browser.new_context()
        watch(context, guarded.url, watched)
        page = await context.new_page()
        await page.goto(f"{guarded.url}/ui")
        dialog = page.get_by_role("dialog", name="API key")
        await dialog.get_by_label("Key").fill("sk-wrong")
        await dialog.get_by_role("button", name="Use this key").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("Incorrect API key")
        await dialog.get_by_label("Key").fill(key)
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_hidden()
        await page.get_by_role("textbox", name="Prompt", exact=True).fill("hello")
        await page.keyboard.press("Enter")
        answer = page.get_by_role("article", name="Answer")
        await expect(answer).to_contain_text("Hello from the first group.")
        assert key not in await page.content()
        assert await page.evaluate("() => [localStorage.length, sessionStorage.length]") == [0, 1]
        await context.close()
    assert not watched.faults
