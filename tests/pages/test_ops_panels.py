"""Every panel of the operations page against the scripted server, by role and label."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.pages.ops_browser import Desk, open_desk


@pytest.fixture
async def desk(browser: Browser) -> AsyncIterator[Desk]:
    async with open_desk(browser) as opened:
        await opened.open()
        yield opened


async def test_the_head_says_how_it_stands(desk: Desk) -> None:
    await expect(desk.page).to_have_title(re.compile(r"Degraded .* phi-serve operations"))
    await expect(desk.page.locator("#status")).to_contain_text("Degraded")
    figures = desk.page.locator("#bar dl")
    await expect(figures).to_contain_text("Ingresses2")
    await expect(figures).to_contain_text("Active5")
    for group in desk.scripted.world.groups.values():
        for each in group["replicas"]:
            each.update(tokens_per_second=10.0)
    desk.scripted.publish()
    await expect(figures).to_contain_text("Tokens/s80.0")


async def test_what_needs_attention_comes_first_with_its_cure(desk: Desk) -> None:
    panel = desk.page.get_by_role("region", name="Needs attention")
    await expect(panel).to_contain_text("3 of 6 groups are ready, 1 asleep. 1 thing to act on.")
    first = panel.get_by_role("listitem").first
    await expect(first).to_contain_text("llama_cpp failed: killed by the kernel")
    await expect(first).to_contain_text("use precision q4_0")
    for words in (
        "vllm_int8 is loading: exporting int8",
        "onnx_int4 is drained",
        "v0z0 of vllm stopped reporting",
        "breaker of vllm",
    ):
        await expect(panel.get_by_role("listitem").filter(has_text=words)).to_have_count(1)
    await first.get_by_role("link").click()
    await expect(desk.group("llama_cpp")).to_be_focused()


async def test_groups_show_phase_load_and_reason(desk: Desk) -> None:
    onnx = desk.group("onnx")
    await expect(onnx).to_contain_text("phi-4-mini-instruct · onnx fp32 · context 4,096")
    await expect(onnx).to_contain_text("Replicas2 of 2")
    await expect(desk.group("llama_cpp").get_by_text("use precision q4_0")).to_be_visible()
    await expect(desk.group("spare")).to_contain_text("asleep")
    await expect(desk.group("vllm")).to_contain_text("breaker half-open")
    await expect(desk.group("vllm_int8")).to_contain_text("exporting int8: 35 %")
    desk.scripted.tick()
    await expect(desk.group("vllm_int8")).to_contain_text("exporting int8: 39 %")


async def test_replicas_show_their_history_and_health(desk: Desk) -> None:
    row = desk.page.get_by_role("table", name="Replicas of onnx", exact=True).get_by_role("row").filter(has_text="x1y2")
    for words in (
        "node-a · pid",
        "starting 3.2 s → loading 14.1 s → warming 1.0 s → ready for 23 h 53 min",
        "1.4 GiB",
        "of 16",
        "no fault",
    ):
        await expect(row).to_contain_text(words)
    bad = desk.page.get_by_role("table", name="Replicas of vllm", exact=True).get_by_role("row").filter(has_text="v9q0")
    for words in ("breaker open", "step took longer than 60 s"):
        await expect(bad).to_contain_text(words)


async def test_live_requests_come_age_and_go(desk: Desk) -> None:
    table = desk.page.get_by_role("table", name="Live requests")
    rows = table.locator("tbody").get_by_role("row")
    await expect(rows).to_have_count(5)
    name = desk.scripted.world.begin(key="night-shift", task="coding", group="vllm", reason="shorter-wait", attempts=2)
    desk.scripted.publish()
    row = rows.filter(has_text=name)
    await expect(row).to_contain_text("shorter-wait, 2 attempts")
    await desk.page.get_by_label("Filter the live requests").fill("Night-Shift")
    await expect(rows).to_have_count(1)
    desk.scripted.world.end(name)
    desk.scripted.publish()
    await expect(desk.page.get_by_text("No request is under way.")).to_be_visible()


async def test_the_requests_of_all_ingresses_can_be_filtered(desk: Desk) -> None:
    view = await desk.show("Requests")
    note = view.locator("#requests-note")
    await expect(note).to_have_text("1,000 requests")
    failed = [each for each in desk.scripted.world.finished if each["outcome"] == "engine_dead" and each["task"] == "math"]
    await view.get_by_label("Outcome", exact=True).select_option("engine_dead")
    await view.get_by_label("Task", exact=True).select_option("math")
    await expect(note).to_have_text(f"{len(failed)} of 1,000 requests")
    await view.get_by_role("button", name="Clear").click()
    await expect(note).to_have_text("1,000 requests")
    await view.get_by_label("Order").select_option("slowest")
    slowest = max(desk.scripted.world.finished, key=lambda each: each["seconds"])
    await expect(view.locator("tbody").get_by_role("row").first).to_contain_text(slowest["id"])


async def test_requests_are_shown_in_pages(desk: Desk) -> None:
    view = await desk.show("Requests")
    await expect(view.get_by_text("page 1 of 20")).to_be_visible()
    await expect(view.locator("tbody").get_by_role("row")).to_have_count(50)
    await view.get_by_role("button", name="Next").click()
    await expect(view.get_by_text("page 2 of 20")).to_be_visible()
    first = desk.scripted.world.finished[50]["id"]
    await expect(view.locator("tbody").get_by_role("row").first).to_contain_text(first)
    desk.scripted.send("requests", {"finished": [desk.scripted.world.end(next(iter(desk.scripted.world.live)))]})
    await view.get_by_role("button", name="Show 1 new").wait_for()  # and nothing moved meanwhile
    await expect(view.locator("tbody").get_by_role("row").first).to_contain_text(first)
    await view.get_by_role("button", name="Show 1 new").click()
    await expect(view.locator("tbody").get_by_role("row").first).to_contain_text(desk.scripted.world.finished[0]["id"])


async def test_a_request_tells_why_it_went_where_it_went(desk: Desk) -> None:
    view = await desk.show("Requests")
    story = next(each for each in desk.scripted.world.details.values() if each["attempts"] == 2 and each["outcome"] == "ok")
    await view.get_by_role("searchbox", name="Text").fill(story["id"])
    await view.get_by_role("button", name=story["id"], exact=True).click()
    drawer = desk.page.get_by_role("dialog", name=f"Request {story['id']}")
    await expect(drawer.get_by_role("heading", name="2 attempts")).to_be_visible()
    attempts = drawer.get_by_role("listitem")
    await expect(attempts.nth(0)).to_contain_text("engine_dead")
    await expect(attempts.nth(1)).to_contain_text(story["timeline"][1]["replica"])
    candidates = drawer.get_by_role("table", name="Candidates").get_by_role("row")
    await expect(candidates.filter(has_text="(answered)")).to_contain_text(story["group"])
    await expect(candidates.filter(has_text="onnx_int4")).to_contain_text("restricted")
    await drawer.get_by_role("button", name="Close").click()
    await expect(view.get_by_role("button", name=story["id"], exact=True)).to_be_focused()


async def test_an_id_that_the_page_does_not_know_is_looked_up(desk: Desk) -> None:
    view = await desk.show("Requests")
    known = next(iter(desk.scripted.world.details.values())) | {"id": "req-of-yesterday"}
    desk.scripted.world.details["req-of-yesterday"] = known
    await view.get_by_role("searchbox", name="Text").fill("req-of-yesterday")
    await view.get_by_role("button", name="Look up req-of-yesterday").click()
    await expect(desk.page.get_by_role("dialog", name="Request req-of-yesterday")).to_contain_text("2 attempts")
    await desk.page.keyboard.press("Escape")
    desk.refusals = True
    await view.get_by_role("searchbox", name="Text").fill("req-of-nobody")
    await view.get_by_role("searchbox", name="Text").press("Enter")
    await expect(desk.page.get_by_role("dialog").get_by_role("alert")).to_contain_text("No ingress remembers this request")


async def test_charts_can_be_read_by_pointer_keys_and_as_a_table(desk: Desk) -> None:
    view = await desk.show("Traffic")
    chart = view.get_by_role("figure", name="Time to the first token")
    points = desk.scripted.world.history
    latest = f"p50 {round(points[-1]['first_token_s']['p50'] * 1000)} ms"
    await expect(chart.get_by_role("status")).to_contain_text(latest)
    picture = chart.get_by_role("img")
    await picture.focus()
    await desk.page.keyboard.press("Home")
    await expect(chart.get_by_role("status")).to_contain_text(f"p95 {round(points[0]['first_token_s']['p95'] * 1000)} ms")
    await desk.page.keyboard.press("End")
    await desk.page.keyboard.press("ArrowLeft")
    await expect(chart.get_by_role("status")).to_contain_text(f"p95 {round(points[-2]['first_token_s']['p95'] * 1000)} ms")
    await picture.hover(position={"x": 60, "y": 60})
    await expect(chart.get_by_role("status")).not_to_contain_text(latest)
    await chart.get_by_text("As a table").click()
    await expect(chart.locator("tbody").get_by_role("row")).to_have_count(90)
    desk.scripted.measure()
    await desk.page.mouse.move(0, 0)
    await picture.blur()
    newest = round(desk.scripted.world.history[-1]["first_token_s"]["p50"] * 1000)
    await expect(chart.get_by_role("status")).to_contain_text(f"p50 {newest} ms")
    await expect(chart.locator("tbody").get_by_role("row").first).to_contain_text(f"{newest} ms")


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Time between tokens", "p95"),
        ("Requests in 10 s", "cancelled"),
        ("Queue", "waiting"),
        ("Replicas", "onnx 2"),
        ("Tokens per second", "tokens/s"),
    ],
)
async def test_every_chart_has_paths_and_figures(desk: Desk, title: str, words: str) -> None:
    view = await desk.show("Traffic")
    chart = view.get_by_role("figure", name=title)
    await expect(chart.get_by_role("status")).to_contain_text(words)
    assert await chart.locator("path.mark").first.get_attribute("d")


async def test_tasks_lead_to_their_requests(desk: Desk) -> None:
    view = await desk.show("Traffic")
    total = sum(point["flow"]["coding"]["vllm"] for point in desk.scripted.world.history)
    await view.get_by_role("button", name=f"{total} coding requests in vllm").click()
    requests = desk.page.locator("#view-requests")
    await expect(requests.get_by_label("Task", exact=True)).to_have_value("coding")
    await expect(requests.get_by_label("Group", exact=True)).to_have_value("vllm")
    use = await desk.show("Traffic")
    rows = use.get_by_role("table", name="Use by key").locator("tbody").get_by_role("row")
    await expect(rows).to_have_count(3)


async def test_the_configuration_can_be_searched(desk: Desk) -> None:
    view = await desk.show("Configuration")
    await expect(view.get_by_text("aliases: [phi-4-mini, phi4-mini]")).to_be_visible()
    await view.get_by_label("Search the configuration").fill("slots: 16")
    await expect(view.get_by_text("1 of 29 settings")).to_be_visible()
    await expect(view.get_by_text("slots: 16")).to_be_visible()
    await expect(view.get_by_text("max_attempts: 3")).to_be_hidden()


async def test_a_file_is_compared_with_what_runs(desk: Desk, tmp_path: Path) -> None:
    view = await desk.show("Configuration")
    (tmp_path / "serve_config.yaml").write_text("routing: {max_attempts: 2}\n")
    await view.get_by_label("Or a file").set_input_files(tmp_path / "serve_config.yaml")
    await expect(view.get_by_label("Text", exact=True)).to_have_value("routing: {max_attempts: 2}\n")
    await view.get_by_role("button", name="Compare").click()
    row = view.get_by_role("table", name="Differences").get_by_role("row").last
    await expect(row).to_have_text("routing.max_attempts32")
    assert desk.posts() == [("/configuration/diff", "routing: {max_attempts: 2}\n")]
    await view.get_by_label("Text", exact=True).fill("routing: {max_attempts: 3}")
    await view.get_by_role("button", name="Compare").click()
    await expect(view.get_by_text("No difference")).to_be_visible()
    desk.refusals = True
    await view.get_by_label("Text", exact=True).fill("nonsense")
    await view.get_by_role("button", name="Compare").click()
    await expect(view.get_by_role("alert").filter(has_text="line 1: this is no configuration")).to_be_visible()


async def test_logs_follow_a_replica(desk: Desk) -> None:
    view = await desk.show("Logs")
    await expect(view.get_by_role("region", name="Log of ingress ab12")).to_be_visible()
    await view.get_by_label("Group").select_option("onnx")
    await expect(view.get_by_role("region", name="Log of ingress ab12")).to_be_hidden()
    await view.get_by_label("Replica").select_option("x3z4")
    log = view.get_by_role("region", name="Log of onnx x3z4")
    await expect(log).to_contain_text("INFO x3z4 step 1")
    await expect(view.get_by_role("region")).to_have_count(2)  # the panel and the one log
    await view.get_by_label("Filter").fill("warning")
    await expect(log).not_to_contain_text("INFO")
    before = len(desk.scripted.calls)
    async with desk.page.expect_response(lambda answer: "/logs" in answer.url):
        await view.get_by_label("Follow").check()
    async with desk.page.expect_response(lambda answer: "/logs" in answer.url):
        pass  # and again by itself
    assert len(desk.scripted.calls) > before


async def test_the_support_bundle_is_a_file(desk: Desk) -> None:
    view = await desk.show("Logs")
    async with desk.page.expect_download() as started:
        await view.get_by_role("button", name="Download support bundle").click()
    file = await started.value
    assert file.suggested_filename.startswith("phi-serve-bundle-")
    assert Path(await file.path()).read_bytes().startswith(b"PK")
    desk.refusals = True
    desk.scripted.refuse("/bundle", 503, "no ingress has room for it")
    await view.get_by_role("button", name="Download support bundle").click()
    await expect(
        desk.page.locator("#toasts").get_by_text("The bundle could not be made: no ingress has room for it")
    ).to_be_visible()
