"""Recorded requests of other people's clients, sent again to the running application, on every real group."""

import httpx
import pytest

from tests.clients.recordings import CLIENTS, LARGE, read_answer, read_recording, renew_ids
from tests.live import GROUPS, LiveApp


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("client", [each for each in CLIENTS if each not in LARGE])
def test_a_client_calls_a_tool_and_gives_a_final_answer(app: LiveApp, client: str, group: str) -> None:
    recording, answer = read_recording(client), ""
    for exchange in recording.exchanges:
        body = renew_ids(exchange.body, answer) | {"temperature": 0}  # no client sends one; this model's samples may lack a call
        sent = httpx.post(f"{app.url}{exchange.path}", json=body, headers=exchange.headers | {"x-engine": group}, timeout=60)
        answer = sent.text
        assert sent.status_code == 200, answer
        named, text = read_answer(exchange.path, answer, stream=bool(body.get("stream")))
        if exchange.continues:
            assert named or text
        else:
            assert named == [recording.tool["name"]]
