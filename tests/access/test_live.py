"""Keys, quotas and usage of the running application: two ingress replicas, three engines' processes, a real Redis, and kills."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.access.keys import Key, KeyList, hash_key
from serve_app.caller import Scope
from tests.live import LiveApp, free_port, live, shipped_config
from tests.store.servers import RedisServer
from tests.unit.test_openapi import CASES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8, "ignore_eos": True}
QUOTAS = {"few": 10, "some": 37, "many": 120}
WORKERS = ("kim", "lee", "max")
KILLS = 20
UNKNOWN: list[tuple[str, str, Any, dict[str, str]]] = [
    ("GET", "/nowhere", None, {}),
    ("PUT", "/v1/chat/completions", None, {}),
    ("GET", "/openapi.json", None, {}),
    ("HEAD", "/", None, {}),
]


@dataclass
class Guarded:
    """The application, its Redis and its file of keys."""

    app: LiveApp
    redis: RedisServer
    file: Path
    second: str
    """The URL of the second port."""

    def ask(self, key: str, body: dict[str, Any] = HI, path: str = CHAT, **headers: str) -> httpx.Response:
        return httpx.post(self.app.url + path, json=body, headers={"authorization": f"Bearer {key}"} | headers, timeout=60)

    def read_usage(self) -> dict[str, dict[str, Any]]:
        answer = httpx.get(f"{self.app.url}/v1/usage", headers={"x-api-key": "op"}, timeout=30)
        assert answer.status_code == 200, answer.text
        return {row["key"]: row for row in answer.json()["data"] if row["model"] != "none"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("keys")
    redis = RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always")
    redis.start()
    (folder / "redis.url").write_text(redis.url)
    keys = [Key(name="op", sha256=hash_key("op"), scopes=(Scope.USE, Scope.OPERATE))]
    keys += [Key(name=name, sha256=hash_key(name), requests_per_minute=quota) for name, quota in QUOTAS.items()]
    keys += [Key(name=name, sha256=hash_key(name)) for name in (*WORKERS, "leaver", "revoked")]
    keys += [
        Key(name="three", sha256=hash_key("three"), concurrent=3),
        Key(name="limited", sha256=hash_key("limited"), requests_per_minute=500),
    ]
    (folder / "keys.json").write_text(KeyList(keys=tuple(keys)).model_dump_json())
    config = shipped_config()
    (application,) = config["applications"]
    args = application["args"]
    args["access"] = {"keys_file": str(folder / "keys.json"), "journal_dir": str(folder / "journal")}
    args["store"] = {"kind": "redis", "url_file": str(folder / "redis.url")}
    args["ollama_port"] = {"port": free_port()}
    del args["engines"]["vllm"]
    args["routing"] = {}
    application["deployments"] = [each for each in application["deployments"] if each["name"] != "vllm"]
    application["deployments"][0]["num_replicas"] = 2
    with live(config, key="op") as app:
        deadline = time.monotonic() + 60
        while len(app.pids("ingress")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield Guarded(app, redis, folder / "keys.json", f"http://127.0.0.1:{args['ollama_port']['port']}")
    redis.kill()


def _await_early_in_the_minute(limit_s: float = 15) -> None:
    while time.time() % 60 > limit_s:
        time.sleep(0.5)


def test_three_keys_are_refused_exactly_at_their_quotas(guarded: Guarded) -> None:
    _await_early_in_the_minute()
    began = time.time() // 60
    statuses: dict[str, Counter[int]] = {name: Counter() for name in QUOTAS}

    def hammer(name: str, times: int) -> None:
        for _ in range(times):
            statuses[name][guarded.ask(name).status_code] += 1

    with ThreadPoolExecutor(9) as pool:
        for name, quota in QUOTAS.items():
            for _ in range(3):
                pool.submit(hammer, name, quota // 2 + 2)
    assert time.time() // 60 == began, "the minute was over before the requests were"
    granted = {name: counts[200] for name, counts in statuses.items()}
    print(f"\nquotas {QUOTAS}, granted {granted}, refused { {name: counts[429] for name, counts in statuses.items()} }")
    for name, quota in QUOTAS.items():
        assert set(statuses[name]) == {200, 429}
        assert abs(granted[name] - quota) <= 1


def test_concurrent_requests_are_bounded_across_ingresses(guarded: Guarded) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: guarded.ask("three", HI | {"max_tokens": 400}), range(12)))
    assert Counter(answer.status_code for answer in answers) == {200: 3, 429: 9}
    time.sleep(1.5)  # places go back to the store within a second
    assert guarded.ask("three").status_code == 200


def test_no_valid_key_no_answer_on_any_route_of_either_port(guarded: Guarded) -> None:
    asked: Counter[str] = Counter()
    for url in (guarded.app.url, guarded.second):
        with httpx.Client(base_url=url, timeout=30) as client:
            for method, path, body, headers in [*CASES, *UNKNOWN]:
                if path in ("/livez", "/health") or headers:
                    continue
                sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
                for state, key in (("none", None), ("wrong", "sk-wrong"), ("ended", "ended"), ("expired", "expired")):
                    header = {} if key is None else {"authorization": f"Bearer {key}"}
                    answer = client.request(method, path, headers=header, **sent)
                    assert answer.status_code == 401, (url, method, path, state, answer.text)
                    asked[state] += 1
                answer = client.request(method, path, headers={"x-api-key": "op"}, **sent)
                assert answer.status_code not in (401, 403), (url, method, path, answer.text)
            assert client.get("/livez").status_code == 200
            assert set(client.get("/health").json()) == {"status", "groups"}
    print(f"\nrequests refused with 401: {dict(asked)}")
    assert httpx.get(guarded.app.url + "/-/healthz", timeout=10).status_code == 200  # Serve's proxy answers this itself


def test_a_revoked_key_is_refused_within_seconds(guarded: Guarded) -> None:
    assert guarded.ask("revoked").status_code == 200
    command = [str(Path(sys.executable).parent / "phi-serve"), "keys", "revoke", "revoked", "--file", str(guarded.file)]
    subprocess.run(command, check=True, timeout=60)
    began = time.monotonic()
    time.sleep(2)  # an ingress looks at the file once a second
    for _ in range(20):  # both ingresses
        assert guarded.ask("revoked").status_code == 401
    assert time.monotonic() - began < 60


@dataclass
class Tally:
    """What one client saw."""

    whole: int = 0
    tokens: int = 0
    broken: int = 0
    refused: Counter[int] = field(default_factory=Counter)


def _work(guarded: Guarded, key: str, tally: Tally, stop: threading.Event) -> None:
    chance = random.Random(key)
    while not stop.is_set():
        body = HI | {"max_tokens": chance.randint(1, 60), "stream": chance.random() < 0.5}
        try:
            if body["stream"]:
                used = _read_stream(guarded, key, body | {"stream_options": {"include_usage": True}})
            else:
                answer = guarded.ask(key, body)
                used = answer.json()["usage"] if answer.status_code == 200 else None
                tally.refused[answer.status_code] += answer.status_code != 200
        except (httpx.HTTPError, ValueError):
            used = None
        if used is None:
            tally.broken += 1
            time.sleep(0.05)  # what answers is being started again
        else:
            tally.whole += 1
            tally.tokens += used["prompt_tokens"] + used["completion_tokens"]


def _read_stream(guarded: Guarded, key: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the usage of a stream that ended well."""
    headers = {"authorization": f"Bearer {key}"}
    used: dict[str, Any] | None = None
    with httpx.stream("POST", guarded.app.url + CHAT, json=body, headers=headers, timeout=60) as answer:
        if answer.status_code != 200:
            return None
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                return used
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    return None
                used = event.get("usage") or used
    return None


def test_usage_is_the_sum_of_the_answers_after_twenty_kills(guarded: Guarded) -> None:
    before = guarded.read_usage()
    tallies, stop = {name: Tally() for name in WORKERS}, threading.Event()
    threads = [threading.Thread(target=_work, args=(guarded, name, tallies[name], stop)) for name in WORKERS]
    for thread in threads:
        thread.start()
    chance, killed = random.Random(11), Counter[str]()
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(2, 4))  # lets answers end between kills
            group = chance.choice(["ingress", "ingress", "onnx", "llama_cpp"])
            while not (pids := guarded.app.pids(group)):
                time.sleep(0.2)
            os.kill(chance.choice(pids), signal.SIGKILL)
            killed[group] += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=90)
    time.sleep(35)  # an ingress looks every 30 s for what killed ones left
    after = guarded.read_usage()
    most = HI["max_tokens"] + 60 + 60
    print(f"\nkilled {dict(killed)}")
    for name, tally in tallies.items():
        counted = {figure: after[name][figure] - before.get(name, {}).get(figure, 0) for figure in ("requests", "errors")}
        tokens = sum(after[name][figure] for figure in ("prompt_tokens", "completion_tokens"))
        tokens -= sum(before.get(name, {}).get(figure, 0) for figure in ("prompt_tokens", "completion_tokens"))
        print(
            f"{name}: {tally.whole} whole answers, {tally.tokens} tokens; {tally.broken} broken; counted {counted}, {tokens} tokens"
        )
        assert tally.whole > 20
        assert tally.whole <= counted["requests"] <= tally.whole + tally.broken
        assert tally.tokens <= tokens <= tally.tokens + tally.broken * most


def test_a_client_that_leaves_pays_and_frees_everything(guarded: Guarded) -> None:
    headers = {"authorization": "Bearer leaver"}
    body = HI | {"max_tokens": 2000, "stream": True}
    with httpx.stream("POST", guarded.app.url + CHAT, json=body, headers=headers, timeout=60) as answer:
        assert next(answer.iter_lines())
    deadline = time.monotonic() + 20
    while "leaver" not in (found := guarded.read_usage()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert found["leaver"]["errors"] == 0
    assert 0 < found["leaver"]["completion_tokens"] < 2000


def test_redis_gone_and_back_loses_no_usage_and_nothing_hangs(guarded: Guarded) -> None:
    before = guarded.read_usage().get("limited", {"requests": 0, "completion_tokens": 0})
    asked, slowest = 0, 0.0
    for phase in ("here", "gone", "back"):
        if phase == "gone":
            guarded.redis.kill()
        elif phase == "back":
            guarded.redis.start()
        for _ in range(15):
            began = time.monotonic()
            assert guarded.ask("limited").status_code == 200  # fail_open
            slowest = max(slowest, time.monotonic() - began)
            asked += 1
            time.sleep(0.1)
    print(f"\nslowest of {asked} requests: {slowest:.2f} s")
    assert slowest < 10
    deadline = time.monotonic() + 30
    while guarded.read_usage()["limited"]["requests"] < before["requests"] + asked:
        assert time.monotonic() < deadline
        time.sleep(1)
    after = guarded.read_usage()["limited"]
    assert after["requests"] == before["requests"] + asked
    assert after["completion_tokens"] == before["completion_tokens"] + 8 * asked
