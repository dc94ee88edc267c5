"""Conversations that are longer than the context asked for: which turns stay, and what a client hears of it."""

import pytest

from serve_app.chat.formats.phi4.render import Phi4Template
from serve_app.chat.tokenizer import Tokenizer
from serve_app.chat.window import fit_to_window
from serve_app.conversation import Chat, Message
from tests.unit.app import App, running
from tests.unit.templated_models import build_with

CHAT, GENERATE = "/api/chat", "/api/generate"
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [{"role": role, "content": f"{role} says {'word ' * 10}{at}"} for at in range(10) for role in ("user", "assistant")]
LAST = {"role": "user", "content": "and now?"}
ASK = {"model": "phi4-mini", "messages": [SYSTEM, *TURNS, LAST], "stream": False}


def _prompt(app: App) -> str:
    tokenizer = app.gateway.catalog.resolve(None).model.tokenizer
    return b"".join(map(tokenizer.raw, app.engines["a"].requests[-1].prompt)).decode()


async def test_the_longest_end_of_the_conversation_that_fits_is_kept(tokenizer: Tokenizer) -> None:
    template = Phi4Template(tokenizer)
    chat = Chat(messages=tuple(Message(**each) for each in ASK["messages"]))  # type: ignore[union-attr]
    whole = await template.render(chat)
    assert await fit_to_window(template.render, chat, len(whole) + 1) == (whole, 0)
    seen = set()
    for window in range(len(whole), 20, -1):
        ids, dropped = await fit_to_window(template.render, chat, window)
        assert len(ids) < window
        kept = Chat(messages=(chat.messages[0], *chat.messages[1 + dropped :]))
        assert ids == await template.render(kept)
        assert kept.messages[1].role == "user"
        earlier = Chat(messages=(chat.messages[0], *chat.messages[1 + dropped - 2 :]))
        assert dropped == 0 or len(await template.render(earlier)) >= window, "a turn was left out that had room"
        seen.add(dropped)
    assert seen == set(range(2, 21, 2))
    ids, dropped = await fit_to_window(template.render, chat, 3)
    assert (len(ids) >= 3, dropped) == (True, 20)


async def test_a_tools_result_may_be_all_that_stays(tokenizer: Tokenizer) -> None:
    messages = (Message(role="user", content="x " * 50), Message(role="assistant", content="y"), Message(role="tool", content="z"))
    template = Phi4Template(tokenizer)
    ids, dropped = await fit_to_window(template.render, Chat(messages=messages), 20)
    assert (ids, dropped) == (await template.render(Chat(messages=messages[2:])), 2)


async def test_where_a_template_takes_no_last_message_alone_the_prompt_is_too_long_and_not_refused() -> None:
    made = build_with(
        "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}{% for m in messages %}"
        "{{ m.content }}{% endfor %}"
    )
    messages = [Message(role=role, content=f"{role} words") for role in ("user", "assistant", "user", "assistant", "tool")]
    ids, dropped = await fit_to_window(made.render, Chat(messages=tuple(messages)), 3)
    assert (ids, dropped) == (await made.render(Chat(messages=tuple(messages))), 0)


async def test_num_ctx_leaves_out_old_turns_and_says_so() -> None:
    async with running(a={"text": "Fine."}) as app:
        free = await app.client.post(CHAT, json=ASK)
        assert "x-dropped-messages" not in free.headers
        assert "user says word" in _prompt(app)
        for stream in (False, True):
            cut = await app.client.post(CHAT, json=ASK | {"options": {"num_ctx": 60}, "stream": stream})
            assert cut.status_code == 200
            assert int(cut.headers["x-dropped-messages"]) >= 14
            assert _prompt(app).startswith("<|system|>Be brief.<|end|><|user|>user says")
            assert _prompt(app).endswith("<|user|>and now?<|end|><|assistant|>")
            assert len(app.engines["a"].requests[-1].prompt) < 60
        none = await app.client.post(CHAT, json=ASK | {"options": {"num_ctx": 0}})
        assert (none.status_code, "x-dropped-messages" in none.headers) == (200, False)


async def test_an_answer_ends_where_num_ctx_does() -> None:
    async with running(a={"text": "one two three four five six seven eight nine ten"}) as app:
        short = {"model": "phi4-mini", "prompt": "hi", "stream": False, "options": {"num_ctx": 8}}
        answer = (await app.client.post(GENERATE, json=short)).json()
        assert (answer["done_reason"], answer["prompt_eval_count"] + answer["eval_count"]) == ("length", 8)
        options = {"num_ctx": 8, "num_predict": 2}
        assert (await app.client.post(GENERATE, json=short | {"options": options})).json()["eval_count"] == 2
        long = await app.client.post(GENERATE, json=short | {"options": {"num_ctx": 1_000_000}})
        assert (long.status_code, long.json()["done_reason"]) == (200, "stop")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (GENERATE, {"prompt": "word " * 30}),
        (GENERATE, {"prompt": "word " * 30, "raw": True}),
        (GENERATE, {"prompt": "x", "context": list(range(300, 330))}),
        (CHAT, {"messages": [SYSTEM, {"role": "user", "content": "word " * 30}]}),
    ],
)
async def test_what_cannot_be_left_out_is_refused_with_both_numbers(path: str, body: dict[str, object]) -> None:
    async with running(a={}) as app:
        response = await app.client.post(path, json={"model": "phi4-mini", "options": {"num_ctx": 16}} | body)
        assert not app.engines["a"].requests
    assert response.status_code == 400
    assert "(num_ctx) is 16 tokens, but the prompt has" in response.json()["error"]


async def test_a_models_own_num_ctx_counts_in_every_dialect_and_the_requests_wins() -> None:
    variants = {"short": {"parameters": {"num_ctx": 60}}}
    async with running({"variants": variants}, a={"text": "Fine."}) as app:
        asked = {"model": "short", "messages": ASK["messages"], "min_tokens": 3}
        openai = await app.client.post("/v1/chat/completions", json=asked)
        wider = await app.client.post(CHAT, json=ASK | {"model": "short", "options": {"num_ctx": 4000}})
    assert openai.status_code == 200
    assert int(openai.headers["x-dropped-messages"]) > 0
    assert "x-dropped-messages" not in wider.headers


@pytest.mark.parametrize("num_ctx", [(1 << 20) + 100, 1 << 21, 1 << 40, 2.0**62])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_context_larger_than_any_counts_as_the_groups_own(num_ctx: float, stream: bool) -> None:
    variants = {"wide": {"parameters": {"num_ctx": num_ctx}}}
    options = {"num_ctx": num_ctx}
    turn = {"messages": [LAST], "stream": stream}
    async with running({"variants": variants}, a={"text": "Fine.", "max_model_len": 64}) as app:
        for path, body in (
            (CHAT, turn | {"model": "phi4-mini", "options": options}),
            (CHAT, turn | {"model": "wide"}),
            (CHAT, turn | {"model": "phi4-mini", "options": options | {"num_predict": 1 << 40}}),
            (GENERATE, {"model": "phi4-mini", "prompt": "hi", "raw": True, "options": options, "stream": stream}),
            ("/v1/chat/completions", turn | {"model": "wide"}),
            ("/v1/chat/completions", turn | {"model": "wide", "min_tokens": 2}),
            ("/v1/completions", {"model": "wide", "prompt": "hi", "stream": stream}),
            ("/v1/route", turn | {"model": "wide"}),
        ):
            response = await app.client.post(path, json=body)
            assert (response.status_code, '"error"' in response.text) == (200, False), (path, response.text)
            request = app.engines["a"].requests[-1]
            assert len(request.prompt) + (request.sampling.max_tokens or 0) <= 64, path


async def test_a_context_is_bounded_where_no_group_has_told_its_own() -> None:
    async with running(a={"absent": True}) as app:
        response = await app.client.post(CHAT, json=ASK | {"options": {"num_ctx": 1 << 40}})
    assert (response.status_code, "No engine group is ready" in response.json()["error"]) == (503, True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("template", ["{{ if .System }}x{{ end }}", "{{/* nothing */}}"])
async def test_what_the_client_sent_is_the_clients_fault_wherever_it_shows(template: str, stream: bool) -> None:
    async with running(a={}) as app:
        body = {"model": "phi4-mini", "prompt": "hi", "template": template, "stream": stream}
        response = await app.client.post(GENERATE, json=body)
    assert (response.status_code, response.json()) == (400, {"error": "prompt must not be empty"})
