"""Kept responses and conversations over them, driven by OpenAI's SDK over the whole application in-process."""

import json
from typing import Any

import openai
import pytest

from serve_app.access.keys import Key, KeyList, hash_key
from serve_app.dialects.openai.responses import references
from serve_app.errors import StoreUnavailable
from tests.unit.app import App
from tests.unit.responses import read_prompt, sdk


async def _send(app: App, body: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
    """Return the final response object."""
    answer = await app.client.post("/v1/responses", json={"model": "phi", "stream": stream} | body)
    assert answer.status_code == 200, answer.text
    if not stream:
        return answer.json()  # type: ignore[no-any-return]
    return json.loads(answer.text.strip().rpartition("data: ")[2])["response"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_of_three_turns(stream: bool) -> None:
    async with sdk() as (client, app):
        first = await _send(app, {"input": "My name is Ada.", "instructions": "Be brief."}, stream=stream)
        second = await _send(app, {"input": "I like maths.", "previous_response_id": first["id"]}, stream=stream)
        third = await _send(app, {"input": "Who am I?", "previous_response_id": second["id"]}, stream=stream)
        shown = read_prompt(app)
        assert [shown.count(each) for each in ("Ada", "Noted.", "maths", "Who am I?", "Be brief.")] == [1, 2, 1, 1, 0]
        assert third["previous_response_id"] == second["id"]
        assert third["store"] is True
        fetched = await client.responses.retrieve(third["id"])
        assert fetched.model_dump(mode="json", exclude_unset=True) == third
        items = [item.model_dump() async for item in client.responses.input_items.list(third["id"], order="asc", limit=2)]
        assert [item["role"] for item in items] == ["user", "assistant", "user", "assistant", "user"]
        assert [item["content"][0]["text"] for item in items][::2] == ["My name is Ada.", "I like maths.", "Who am I?"]
        newest = await client.responses.input_items.list(third["id"])
        assert newest.data[0].content[0].text == "Who am I?"  # type: ignore[union-attr]
        await client.responses.delete(first["id"])
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first["id"])
        assert await _send(app, {"input": "And now?", "previous_response_id": second["id"]}, stream=stream)
        with pytest.raises(openai.BadRequestError, match="no response"):
            await client.responses.create(model="phi", input="And?", previous_response_id=first["id"])


async def test_tools_continue_a_kept_response() -> None:
    tool: Any = {"type": "function", "name": "area", "parameters": {"type": "object", "properties": {"r": {"type": "integer"}}}}
    async with sdk(text='<|tool_call|>[{"name": "area", "arguments": {"r": 5}}]<|/tool_call|>') as (client, app):
        first = await client.responses.create(model="phi", input="How large?", tools=[tool])
        call: Any = first.output[0]
        result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "78.5"}]
        await client.responses.create(model="phi", input=result, previous_response_id=first.id, tools=[tool])
        assert all(each in read_prompt(app) for each in ("How large?", '"area"', "78.5"))
        by_reference: Any = [{"role": "user", "content": "Again"}, {"type": "item_reference", "id": call.id}, *result]
        await client.responses.create(model="phi", input=by_reference, tools=[tool])
        assert all(each in read_prompt(app) for each in ("Again", '"area"', "78.5"))
        bare: Any = [{"id": call.id}, *result]
        await client.responses.create(model="phi", input=bare, tools=[tool], previous_response_id=None)


async def test_counting_follows_a_kept_response() -> None:
    async with sdk() as (client, _):
        first = await client.responses.create(model="phi", input="My name is Ada.")
        counted = await client.responses.input_tokens.count(model="phi", input="And?", previous_response_id=first.id)
        second = await client.responses.create(model="phi", input="And?", previous_response_id=first.id)
        assert second.usage is not None
        assert counted.input_tokens == second.usage.input_tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_store_false_keeps_nothing(stream: bool) -> None:
    async with sdk() as (_, app):
        response = await _send(app, {"input": "hi", "store": False}, stream=stream)
        assert response["store"] is False
        assert (await app.client.get(f"/v1/responses/{response['id']}")).status_code == 404
        assert (await app.gateway.accounts.store.scan("responses/")).items == ()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_operator_can_turn_it_off(stream: bool) -> None:
    async with sdk({"responses": {"keep": False}}) as (_, app):
        response = await _send(app, {"input": "hi"}, stream=stream)
        assert response["store"] is False
        for answer in (
            await app.client.get(f"/v1/responses/{response['id']}"),
            await app.client.post("/v1/responses", json={"model": "phi", "input": "x", "previous_response_id": response["id"]}),
        ):
            assert answer.status_code in (400, 404)
            assert "responses.keep" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_leaves_while_the_store_is_away(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sdk() as (_, app):
        kept = await _send(app, {"input": "hi"}, stream=stream)
        store = app.gateway.accounts.store

        async def fail(*args: Any, **kwargs: Any) -> Any:
            raise StoreUnavailable("the store is away; try again", reason="away", retry_after_s=1.0)

        monkeypatch.setattr(store, "put", fail)
        response = await _send(app, {"input": "hi"}, stream=stream)
        assert response["store"] is False
        assert response["output"][0]["content"][0]["text"] == "Noted."
        monkeypatch.setattr(store, "get", fail)
        answer = await app.client.get(f"/v1/responses/{kept['id']}")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        continued = {"model": "phi", "input": "x", "previous_response_id": kept["id"], "stream": stream}
        assert (await app.client.post("/v1/responses", json=continued)).status_code == 503


async def test_a_failed_stream_is_kept_as_failed() -> None:
    async with sdk(text="one two three four", fault="die_midway", fault_at=2) as (_, app):
        response = await _send(app, {"input": "hi"}, stream=True)
        assert response["status"] == "failed"
        fetched = (await app.client.get(f"/v1/responses/{response['id']}")).json()
        assert fetched == response


async def test_a_response_belongs_to_its_key(tmp_path: Any) -> None:
    file = tmp_path / "keys.json"
    names = ("alice", "bob")
    file.write_text(KeyList(keys=tuple(Key(name=name, sha256=hash_key(name)) for name in names)).model_dump_json())
    access = {"access": {"keys_file": str(file), "journal_dir": None}}
    async with sdk(access) as (_, app):
        clients = {
            name: openai.AsyncOpenAI(base_url="http://test/v1", api_key=name, http_client=app.client, max_retries=0)
            for name in names
        }
        response = await clients["alice"].responses.create(model="phi", input="My name is Ada.")
        assert (await clients["alice"].responses.retrieve(response.id)).id == response.id
        bob = clients["bob"].responses
        for refused in (bob.retrieve(response.id), bob.delete(response.id), bob.input_items.list(response.id)):
            with pytest.raises(openai.NotFoundError):
                await refused
        with pytest.raises(openai.BadRequestError):
            await bob.create(model="phi", input="Who am I?", previous_response_id=response.id)
        reference: Any = [{"type": "item_reference", "id": response.output[0].id}]
        with pytest.raises(openai.BadRequestError):
            await bob.create(model="phi", input=reference)


async def test_a_long_chain_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with sdk() as (_, app):
        previous = None
        for turn in range(40):
            response = await _send(app, {"input": f"Turn {turn}.", "previous_response_id": previous})
            previous = response["id"]
        reads = []
        read = app.gateway.accounts.store.get

        async def count_reads(key: str) -> bytes | None:
            reads.append(key)
            return await read(key)

        monkeypatch.setattr(app.gateway.accounts.store, "get", count_reads)
        await _send(app, {"input": "Now.", "previous_response_id": previous})
        assert len(reads) == 2  # a head and a unit
        assert read_prompt(app).count("Turn ") == 40


async def test_references_are_bounded_in_the_answers_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_MAX_LOOKUPS", 2)
    async with sdk() as (_, app):
        kept = [await _send(app, {"input": f"Question {turn}"}) for turn in range(3)]
        referring = [{"type": "item_reference", "id": each["output"][0]["id"]} for each in kept]
        assert await _send(app, {"input": referring[:2]})
        answer = await app.client.post("/v1/responses", json={"model": "phi", "input": referring})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input.2"), answer.text


QUERIES = [
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=1e2", "limit"),
    ("limit=٣", "limit"),
    ("order=up", "order"),
    ("after=none", "after"),
]


@pytest.mark.parametrize(("query", "said"), QUERIES)
async def test_wrong_queries_name_the_parameter(query: str, said: str) -> None:
    async with sdk() as (_, app):
        response = await _send(app, {"input": "hi"})
        answer = await app.client.get(f"/v1/responses/{response['id']}/input_items?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, said)


@pytest.mark.parametrize("name", ["none", "resp_", "resp_" + "0" * 38, "resp_" + "é" * 38, "a" * 3000, "%2e%2e"])
async def test_unknown_ids_are_not_found(name: str) -> None:
    async with sdk() as (_, app):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
            assert (await app.client.request(method, f"/v1/responses/{name}{path}")).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_of_many_items_is_kept_and_continued(stream: bool) -> None:
    items: Any = [{"role": role, "content": f"{role} {at}"} for at in range(150) for role in ("user", "assistant")]
    async with sdk() as (client, app):
        first = await _send(app, {"input": [*items, {"role": "user", "content": "Last."}]}, stream=stream)
        second = await _send(app, {"input": "More.", "previous_response_id": first["id"]}, stream=stream)
        listed = await client.responses.input_items.list(second["id"], order="asc", limit=100)
        assert (len(listed.data), listed.has_more) == (100, True)
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]


async def test_every_item_of_an_input_has_an_id_of_its_own() -> None:
    async with sdk() as (client, app):
        first = await _send(app, {"input": [{"id": "same", "role": "user", "content": text} for text in ("a", "b", "c")]})
        again = await _send(app, {"input": [{"id": "same", "role": "user", "content": "d"}], "previous_response_id": first["id"]})
        for response, count in ((first, 3), (again, 5)):
            listed = client.responses.input_items.list(response["id"], limit=1, order="asc")
            assert len([item async for item in listed]) == count


async def test_an_item_is_referred_to_once() -> None:
    async with sdk() as (_, app):
        first = await _send(app, {"input": "word " * 100})
        item = {"type": "item_reference", "id": first["output"][0]["id"]}
        for input in ([item, item], [item, {"id": item["id"]}], [{"type": "item_reference"}] * 2):
            answer = await app.client.post("/v1/responses", json={"model": "phi", "input": input})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input.1"), answer.text


async def test_references_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_KEPT_BYTES", 2000)
    async with sdk() as (_, app):
        kept = [await _send(app, {"input": f"{turn} {'word ' * 200}"}) for turn in range(3)]
        items = [(await app.client.get(f"/v1/responses/{each['id']}/input_items")).json()["data"][0]["id"] for each in kept]
        referring = [{"type": "item_reference", "id": each} for each in items]
        assert await _send(app, {"input": referring[:1]})
        answer = await app.client.post("/v1/responses", json={"model": "phi", "input": referring})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input.1"), answer.text


DAMAGES = {
    "cut": lambda value: value[:60],
    "no text": lambda value: value[:38] + b"\xff\xfe",
    "no object": lambda value: value[:38] + b"[]",
    "wrong items": lambda value: value[:38] + b'{"input":[3],"response":{"status":"completed","background":false,"output":[]}}',
    "unknown form": lambda value: value.replace(b'"role":"user"', b'"role":"oracle"'),
    "head": lambda value: value.replace(b'{"key":"', '{"key":"é'.encode()),
    "units": lambda value: value.replace(b'"units":1', b'"units":-1'),
    "too many units": lambda value: value.replace(b'"units":1', b'"units":1' + b"0" * 20),
}


@pytest.mark.parametrize("named", DAMAGES)
async def test_what_cannot_be_read_counts_as_not_kept(named: str, caplog: pytest.LogCaptureFixture) -> None:
    async with sdk() as (_, app):
        response = await _send(app, {"input": "SECRET"})
        store = app.gateway.accounts.store
        for entry in (await store.scan("responses/")).items:
            if (entry.key.startswith("responses/unit/")) is (named in ("head", "units", "too many units")):
                continue
            await store.put(entry.key, DAMAGES[named](entry.value))
        path = f"/v1/responses/{response['id']}"
        continued = {"model": "phi", "input": "x", "previous_response_id": response["id"]}
        assert (await app.client.post("/v1/responses", json=continued)).status_code == 400
        reference = [{"type": "item_reference", "id": f"msg_{response['id'][5:]}_i0"}]
        assert (await app.client.post("/v1/responses", json={"model": "phi", "input": reference})).status_code == 400
        for method, end in (("GET", ""), ("GET", "/input_items"), ("DELETE", "")):
            assert (await app.client.request(method, path + end)).status_code in (200, 404)
        assert "SECRET" not in caplog.text
