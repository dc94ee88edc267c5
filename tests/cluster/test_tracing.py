"""Serve's tracing hook, switched on in the configuration, writes a span of ours under Serve's own."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.live import live, shipped_config

LIMIT_S = 30


def _spans(folder: Path) -> list[dict[str, Any]]:
    """What Serve's default exporter has written: JSON objects one after the other."""
    found, decoder = [], json.JSONDecoder()
    for file in folder.glob("*_tracing.json"):
        text = file.read_text().lstrip()
        while text:
            span, end = decoder.raw_decode(text)
            found.append(span)
            text = text[end:].lstrip()
    return found


@pytest.mark.slow
def test_a_request_leaves_a_span_under_serves_own() -> None:
    config = shipped_config()
    application = config["applications"][0]
    application["args"]["engines"] = {"scripted": {"kind": "fake", "tokens_per_second": 500, "text": "one two three"}}
    application["args"].pop("routing", None)
    kept = [each for each in application["deployments"] if each["name"] not in ("onnx", "vllm", "llama_cpp")]
    application["deployments"] = [*kept, {"name": "scripted", "ray_actor_options": {"num_cpus": 0.01}}]
    config["tracing_config"] = {"enabled": True, "sampling_ratio": 1.0}
    with live(config) as app:
        app.client().chat.completions.create(model="phi-4-mini", messages=[{"role": "user", "content": "hi"}], max_tokens=3)
        folder = app.log.parent / "ray" / "session_latest" / "logs" / "serve" / "spans"
        deadline = time.monotonic() + LIMIT_S
        while not (ours := [span for span in _spans(folder) if span["name"] == "chat phi-4-mini"]):
            assert time.monotonic() < deadline, [span["name"] for span in _spans(folder)]
            time.sleep(0.5)
    (span,) = ours
    assert span["attributes"]["gen_ai.usage.output_tokens"] == 3
    assert span["attributes"]["phi_serve.engine"] == "scripted"
    assert span["parent_id"] is not None
