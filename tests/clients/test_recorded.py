"""Recorded requests of other people's clients, sent again to the whole application in-process, over a scripted group."""

import json
from typing import Any

import pytest

from tests.clients.recordings import CLIENTS, read_answer, read_recording, renew_ids
from tests.unit.app import running

FINAL = "That is the result."
RESULT_MARKS = ("22 degrees", "Output:\nforty-two", ">forty-two")


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_client_calls_a_tool_and_gives_a_final_answer(client: str) -> None:
    recording = read_recording(client)
    script = {
        "text": f"<|tool_call|>{json.dumps([recording.tool])}<|/tool_call|>",
        "replies": [{"when": mark, "text": FINAL} for mark in RESULT_MARKS],
        "max_model_len": 65536,
        "structured": True,
    }
    names = {"models": {"phi-4-mini-instruct": {}}, "limits": {"max_body_bytes": 1 << 20}}
    async with running(names, a=script) as app:
        answer, calls, finals = "", 0, 0
        for exchange in recording.exchanges:
            body = renew_ids(exchange.body, answer)
            sent = await app.client.post(exchange.path, json=body, headers=exchange.headers)
            answer = sent.text
            assert sent.status_code == 200, answer
            named, text = read_answer(exchange.path, answer, stream=bool(body.get("stream")))
            if exchange.continues:
                assert (named, text) == ([], FINAL)
                finals += 1
            else:
                assert named == [recording.tool["name"]]
                calls += 1
        assert calls
        assert finals


OPEN_WEBUI = (("/v1/embeddings", {}), ("/api/embed", {"truncate": True}))


@pytest.mark.parametrize(("path", "extra"), OPEN_WEBUI)
async def test_open_webui_embeds_its_documents(path: str, extra: dict[str, Any]) -> None:
    texts = ["A cat sat.", "Ein Hund lief.", "A cat sat."]
    models = {"models": {"phi": {}, "mini": {}}}
    async with running(models, a={}, e={"kind": "onnx_encoder", "model": "mini"}) as app:
        sent = await app.client.post(path, json={"input": texts, "model": "mini"} | extra)
        assert sent.status_code == 200, sent.text
        answer = sent.json()
        vectors = [each["embedding"] for each in answer["data"]] if "data" in answer else answer["embeddings"]
        assert len(vectors) == 3
        assert vectors[0] == vectors[2] != vectors[1]
