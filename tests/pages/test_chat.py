"""The chat of the playground, by role and label."""

import json
from typing import Any

from playwright.async_api import Page, expect

from tests.pages.conftest import open_playground
from tests.pages.site import Site


async def ask(page: Page, text: str) -> None:
    await page.get_by_role("textbox", name="Prompt", exact=True).fill(text)
    await page.keyboard.press("Enter")


def answers(page: Page) -> Any:
    return page.get_by_role("article", name="Answer")


async def test_a_prompt_is_answered_with_its_route_and_figures(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await ask(page, "hello")
    answer = answers(page)
    await expect(answer).to_contain_text("Hello from the first group.")
    for fact in ("onnx", "reason preferred", "attempts 1", "first token", "tok/s", "prompt", "completion", "cached 0"):
        await expect(answer).to_contain_text(fact)
    await answer.get_by_role("button", name="Candidates").click()
    table = answer.get_by_role("table", name="Cost of each candidate")
    await expect(table.get_by_role("row")).to_have_count(4)
    await expect(table).to_contain_text("chosen")


async def test_pickers_and_sampling_become_headers_and_fields(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.get_by_label("Group", exact=True).select_option("vllm")
    await page.get_by_label("Task", exact=True).select_option("coding")
    await page.get_by_label("Instructions for every answer").fill("Be brief.")
    for label, value in (("Temperature", "0.5"), ("Top p", "0.9"), ("Max tokens", "7"), ("Seed", "3")):
        await page.get_by_role("spinbutton", name=label).fill(value)
    await page.get_by_label("Stop strings").fill("END\nSTOP")
    async with page.expect_request("**/v1/chat/completions") as sent:
        await ask(page, "hello")
    request = await sent.value
    assert (request.headers["x-engine"], request.headers["x-task"]) == ("vllm", "coding")
    assert json.loads(request.post_data or "") == {
        "model": "phi-4-mini-instruct",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "stop": ["END", "STOP"], "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    await expect(answers(page)).to_contain_text("vllm")
    await expect(answers(page)).to_contain_text("reason requested")


async def test_whole_answers_have_figures_too(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.get_by_label("Stream").uncheck()
    await ask(page, "think first")
    await expect(answers(page)).to_contain_text("Then I answer.")
    await expect(answers(page)).to_contain_text("tok/s")


async def test_an_answer_is_stopped_by_the_escape_key(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.get_by_label("Group", exact=True).select_option("slow")
    await ask(page, "go")
    await expect(answers(page)).to_contain_text("Slow and steady")
    await page.keyboard.press("Escape")
    await expect(answers(page)).to_contain_text("Stopped.")
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


async def test_turns_are_repeated_edited_and_continued(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await ask(page, "hello")
    await expect(answers(page)).to_contain_text("Hello from the first group.")
    await page.get_by_role("button", name="Retry this answer").click()
    await expect(answers(page)).to_have_count(1)
    await expect(answers(page)).to_contain_text("Hello from the first group.")
    await page.get_by_role("button", name="Edit this prompt").click()
    await page.get_by_label("Edit the prompt").fill("think first")
    await page.get_by_role("button", name="Send again").click()
    await expect(answers(page)).to_contain_text("Then I answer.")
    await expect(page.get_by_role("article", name="Prompt")).to_have_text("think firstEdit")
    await page.get_by_role("button", name="Edit this answer").click()
    await page.get_by_label("Edit the answer").fill("Hello from")
    async with page.expect_request("**/v1/chat/completions") as sent:
        await page.get_by_role("button", name="Continue from here").click()
    body = json.loads((await sent.value).post_data or "")
    assert body["messages"][-1] == {"role": "assistant", "content": "Hello from"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    await expect(answers(page)).to_contain_text("Hello from")
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


async def test_thoughts_are_folded(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await ask(page, "think first")
    await expect(answers(page)).to_contain_text("Then I answer.")
    await expect(page.get_by_text("First I weigh it.")).to_be_hidden()
    await page.get_by_text("Thoughts", exact=True).click()
    await expect(page.get_by_text("First I weigh it.")).to_be_visible()


async def test_markdown_becomes_nodes(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await ask(page, "markdown")
    answer = answers(page)
    await expect(answer.get_by_role("listitem").first).to_have_text("one")
    await expect(answer.locator("strong")).to_have_text("bold")
    await expect(answer.locator("pre code")).to_have_text('print("code")')
    await expect(answer.get_by_role("cell")).to_have_text(["1", "2"])
    links = answer.get_by_role("link")
    await expect(links).to_have_count(2)
    assert [await each.get_attribute("href") for each in await links.all()] == [
        "https://example.com/x",
        "https://example.com/i.png",
    ]
    assert {await each.get_attribute("rel") for each in await links.all()} == {"noopener noreferrer"}
    await expect(answer.locator("img")).to_have_count(0)
    await answer.get_by_role("button", name="Copy the code").click()
    assert await page.evaluate("() => navigator.clipboard.readText()") == 'print("code")'


async def test_what_a_model_writes_is_never_run(page: Page, site: Site) -> None:
    await open_playground(page, site)
    for logprobs in (False, True):
        await page.get_by_label("Token probabilities").set_checked(logprobs)
        await ask(page, "hostile")
        answer = answers(page).last
        await expect(answer.get_by_role("button", name="Retry this answer")).to_be_visible()
        assert "<script>window.hacked = 1</script>" in (await answer.text_content() or "")
        assert await answer.locator("script, img, svg, iframe").count() == 0
        assert [await each.get_attribute("href") for each in await answer.locator("a").all()] == []
        assert (
            await answer.evaluate(
                "node => [...node.querySelectorAll('*')].some(each => each.getAttributeNames().some(name => name.startsWith('on')))"
            )
            is False
        )
    assert await page.evaluate("() => window.hacked") is None


async def test_a_prompt_with_html_stays_text(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await ask(page, "<img src=x onerror=alert(1)> hello")
    await expect(page.get_by_role("article", name="Prompt")).to_contain_text("<img src=x onerror=alert(1)> hello")


async def test_a_request_is_copied_as_code(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await ask(page, "it's hello")
    for name, expected in (("curl", "'\\''s hello"), ("Python", "client.chat.completions.create("), ("Ollama", "/api/chat")):
        await page.get_by_role("button", name=f"Copy as {name}").click()
        assert expected in await page.evaluate("() => navigator.clipboard.readText()")


async def test_the_route_is_shown_while_typing(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.get_by_role("textbox", name="Prompt", exact=True).press_sequentially("What is 15% of 240?")
    tasks = page.get_by_role("list", name="Probabilities of the tasks").get_by_role("listitem")
    await expect(tasks.first).to_contain_text("math")
    await expect(page.get_by_role("list", name="Groups in their order").get_by_role("listitem")).to_have_text(
        ["onnx", "vllm", "slow"]
    )


async def test_probabilities_are_shown_by_token(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.get_by_label("Token probabilities").check()
    await ask(page, "hello")
    first = page.locator("button.token").first
    await first.focus()
    await expect(page.get_by_role("table", name="Most probable tokens here")).to_contain_text("100 %")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("button.token").nth(1)).to_be_focused()


FAILOVER = """data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

data: {"choices":[{"index":0,"delta":{"content":"Begun **here"},"finish_reason":null}]}

: route {"group":"onnx","attempt":2,"reason":"failover"}

: ping

data: {"choices":[{"index":0,"delta":{"content":" and** there."},"finish_reason":null}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":6,"total_tokens":9}}

data: [DONE]

"""


async def test_a_failover_is_shown_in_its_place(page: Page, site: Site) -> None:
    await open_playground(page, site)
    headers = {"content-type": "text/event-stream", "x-engine": "vllm", "x-route-reason": "preferred", "x-attempts": "1"}
    await page.route("**/v1/chat/completions", lambda route: route.fulfill(body=FAILOVER, headers=headers))
    await ask(page, "hello")
    await expect(answers(page).locator("strong")).to_have_text("herecontinued on onnx and")
    await expect(answers(page)).to_contain_text("reason failover")
    await expect(answers(page)).to_contain_text("attempts 2")
    await page.unroute("**/v1/chat/completions")
    async with page.expect_request("**/v1/chat/completions") as sent:
        await ask(page, "again")
    assert json.loads((await sent.value).post_data or "")["messages"][1]["content"] == "Begun **here and** there."


async def test_an_answer_that_breaks_off_says_so(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=FAILOVER[:300], headers={"content-type": "text/event-stream"})
    )
    await ask(page, "hello")
    await expect(page.get_by_role("alert").filter(has_text="broke off")).to_be_visible()


async def test_conversations_are_kept_only_if_asked(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await ask(page, "hello")
    await expect(answers(page)).to_contain_text("completion")
    assert await page.evaluate("() => localStorage.length + sessionStorage.length") == 0
    await page.get_by_label("Keep them in this browser").check()
    await page.get_by_role("button", name="New", exact=True).click()
    await ask(page, "think first")
    await expect(answers(page)).to_contain_text("Then I answer.")
    await expect(page.get_by_role("button", name="think first", exact=True)).to_be_visible()
    await page.reload()
    await page.get_by_role("button", name="think first", exact=True).click()
    await expect(answers(page)).to_contain_text("Then I answer.")
    await page.get_by_label("Keep them in this browser").uncheck()
    assert await page.evaluate("() => localStorage.length") == 0


async def test_keys_of_the_keyboard(page: Page, site: Site) -> None:
    await open_playground(page, site)
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    await page.get_by_label("Seed").focus()
    await page.keyboard.press("Control+k")
    await expect(prompt).to_be_focused()
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await expect(prompt).to_have_value("one\ntwo")
    await page.get_by_role("tab", name="Chat").focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.get_by_role("tab", name="Compare")).to_be_focused()
    await expect(page.get_by_role("tabpanel", name="Compare")).to_be_visible()


async def test_screen_readers_hear_sentences_and_no_tokens(page: Page, site: Site) -> None:
    await open_playground(page, site)
    await page.evaluate("""() => {
        window.said = [];
        const note = () => said.push(document.querySelector('#announcements')?.textContent);
        new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
    }""")
    await ask(page, "long")
    await expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    await expect(answers(page)).to_contain_text("tok/s")
    said = await page.evaluate("() => [...new Set(said)].filter(Boolean)")
    assert "Waiting for the answer" in said
    assert "".join(said[1:]).endswith("and again. ") or "".join(said[1:]).endswith("and again.")
    assert len(said) < 12
