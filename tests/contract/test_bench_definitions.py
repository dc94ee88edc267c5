"""`phi-serve bench` and `vllm bench serve` compute the same figures of the same samples, and see the same stream alike."""

import asyncio
import itertools
import random
import warnings
from typing import Any

import aiohttp
import pytest

from serve_app.bench.measure import Deadlines, compute_figures
from serve_app.bench.record import Sample
from serve_app.bench.target import Target
from tests.unit.bench_records import make_run, make_sample

_PAUSES_S = (0.3, 0.2, 0.1, 0.2)
"""Before each chunk; long enough that a busy machine adds little."""
_CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
_END = b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":7}}\n\ndata: [DONE]\n\n'


@pytest.mark.slow
def test_the_same_samples_give_the_same_figures() -> None:
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncOutput  # imports torch; only this file needs it
    from vllm.benchmarks.serve import calculate_metrics

    draw = random.Random(1)
    samples = []
    for number in range(40):
        at_s, chunks = draw.expovariate(5.0), []
        for _ in range(draw.randint(1, 9)):
            at_s += draw.expovariate(50.0)
            chunks.append(at_s)
        samples.append(make_sample(*chunks, number=number, tokens=len(chunks) + draw.randint(0, 5)))
    samples.append(make_sample(failure="503 overloaded"))
    theirs: list[Any] = [
        RequestFuncOutput(
            success=not each.failure,
            latency=each.chunks_s[-1] if each.chunks_s else 0.0,
            output_tokens=each.completion_tokens,
            ttft=each.chunks_s[0] if each.chunks_s else 0.0,
            itl=[later - sooner for sooner, later in itertools.pairwise(each.chunks_s)],
            prompt_len=each.prompt_tokens,
        )
        for each in samples
    ]
    deadlines = Deadlines(ttft_s=0.3, tpot_s=0.02, e2e_s=0.4)
    goodput = {"ttft": 300.0, "tpot": 20.0, "e2el": 400.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optional packages that draw plots
        wanted, _ = calculate_metrics([], theirs, 3.0, None, [50.0, 95.0, 99.0], goodput)
    found = compute_figures([make_run(samples, duration_s=3.0)], deadlines, (10, 5))
    assert (found.requests - 1, sum(found.failures.values())) == (wanted.completed, wanted.failed)
    assert found.output_tokens_per_s == pytest.approx(wanted.output_throughput)
    assert found.total_tokens_per_s == pytest.approx(wanted.total_token_throughput)
    assert found.requests_per_s == pytest.approx(wanted.request_throughput)
    assert found.good_per_s == pytest.approx(wanted.request_goodput)
    assert 0 < found.good < 40
    for name, spread in (("ttft", found.ttft), ("tpot", found.tpot), ("itl", found.itl), ("e2el", found.e2e)):
        assert spread is not None
        assert spread.mean_s * 1e3 == pytest.approx(getattr(wanted, f"mean_{name}_ms"))
        theirs_ms = [value for _, value in getattr(wanted, f"percentiles_{name}_ms")]
        assert [each * 1e3 for each in spread.percentiles_s] == pytest.approx(theirs_ms)


@pytest.mark.slow
async def test_both_clients_see_the_same_stream() -> None:
    from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, async_request_openai_chat_completions

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for at, pause_s in enumerate(_PAUSES_S):
            await asyncio.sleep(pause_s)
            writer.write(_CHUNK[:20])  # in two pieces, as networks deliver
            await writer.drain()
            writer.write(_CHUNK[20:] + (_CHUNK if at == 1 else b""))
        writer.write(_END)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    asked = RequestFuncInput(prompt="hi", api_url=f"{url}/v1/chat/completions", prompt_len=10, output_len=7, model="m")
    ours = Sample(number=0, sent_s=0.0)
    async with server, aiohttp.ClientSession() as session, Target(url, {}, "chat", 60.0) as target:
        body = target.encode_body("m", "hi", 7, 0.0)
        theirs, _ = await asyncio.gather(async_request_openai_chat_completions(asked, session), target.ask(body, "a", ours))
    assert theirs.success, theirs.error
    assert ours.failure == ""
    assert (ours.prompt_tokens, ours.completion_tokens) == (theirs.prompt_len, theirs.output_tokens)
    assert len(ours.chunks_s) == 1 + len(theirs.itl) == len(_PAUSES_S) + 1
    # Both run on one loop, so what delays one delays the other.
    assert ours.chunks_s[0] == pytest.approx(theirs.ttft, rel=0.05)
    assert ours.chunks_s[-1] == pytest.approx(theirs.latency, rel=0.05)
