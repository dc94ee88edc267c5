"""What the cluster lives through while clients ask: a lost worker, more and fewer replicas, an update, another head.

Figures are printed (`-s`). Tests run in this order on one cluster and leave it as they found it.
"""

import copy
import time
from concurrent.futures import ThreadPoolExecutor, wait

from tests.containers.cluster import RAYLET, WORKERS, Cluster, Config, healthy, until
from tests.containers.conftest import SLOW_TOKENS_PER_S, options
from tests.containers.load import Load, Outcome, ask, faults, longest
from tests.live import GROUPS

CLIENTS = 8
REQUESTS = 200
STREAM_S = 60
HEAVY = 46
"""Clients that keep three replicas of four slots behind."""
SCALING = {
    "min_replicas": 1,
    "max_replicas": 3,
    "upscale_delay_s": 2,
    "downscale_delay_s": 10,
    "metrics_interval_s": 1,
    "look_back_period_s": 3,
    "policy": {
        "policy_function": "deployments.autoscaling:TokenBacklog",
        "policy_kwargs": {"target_wait_s": 0.5, "answer_tokens": 100, "target_running": 4},
    },
}


def test_every_group_answers(cluster: Cluster) -> None:
    for group in GROUPS:
        answers = [ask(cluster.url, number, key=cluster.key, tokens=16, group=group) for number in range(2)]
        assert faults(answers) == []
        assert all(answer.headers.startswith(f"{group} ") for answer in answers)


def test_a_killed_worker_costs_no_request(cluster: Cluster) -> None:
    """The worker with the most replicas goes down in the middle of 200 requests, and comes back as an empty node."""
    places = [place.split("/") for group in cluster.replicas().values() for place in group]
    held = {number: {name for address, name in places if address == cluster.address(number)} for number in WORKERS}
    victim = max(WORKERS, key=lambda number: len(held[number]))
    worker = cluster.workers[victim]
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(ask, cluster.url, number, key=cluster.key) for number in range(REQUESTS)]
        wait(answers[: REQUESTS // 4])
        killed_s = time.monotonic()
        worker.kill()
        outcomes = [answer.result() for answer in answers]

    def whole() -> bool:
        return healthy(cluster.url) and cluster.ready("onnx") == 2 and not cluster.ids(*GROUPS) & held[victim]

    until(whole, 600)
    back_s = time.monotonic() - killed_s
    lost = faults(outcomes)
    moved = sum(not outcome.headers.endswith(" 1") for outcome in outcomes)
    quick = [outcome for outcome in outcomes if not outcome.headers.startswith("slow ")]  # that group is slow by itself
    after = [outcome for outcome in quick if outcome.began_s > killed_s]
    print(f"\nworker {victim} with {len(held[victim])} replicas killed under {REQUESTS} requests:")
    print(f"{len(lost)} failed, {moved} moved, longest silence {longest(quick):.1f} s, {longest(after):.1f} s in later requests")
    print(f"all replicas back {back_s:.1f} s after the kill")
    worker.start()
    joined_s = until(lambda: worker.run("python3.11", "/app/probe.py", RAYLET) == "")
    print(f"the worker was a node again {joined_s:.1f} s after its start")
    assert lost == []


def test_onnx_scales_with_the_backlog(cluster: Cluster, config: Config) -> None:
    scaled = copy.deepcopy(config)
    scaled["applications"][0]["args"]["engines"]["onnx"]["slots"] = 4
    options(scaled, "onnx")["autoscaling_config"] = SCALING
    before = cluster.ids("onnx")
    cluster.deploy(scaled)
    until(lambda: healthy(cluster.url) and cluster.ready("onnx") == 1 and not before & cluster.ids("onnx"))

    def request(number: int) -> Outcome:
        return ask(cluster.url, number, key=cluster.key, tokens=100, group="onnx")

    loads = []
    print()
    with Load(2, request) as light:
        with Load(HEAVY, request) as heavy:
            for count in (2, 3):
                took_s = until(lambda count=count: cluster.ready("onnx") >= count)
                print(f"replica {count} ready {took_s:.1f} s later, at {2 + HEAVY} clients")
        for count in (2, 1):
            took_s = until(lambda count=count: cluster.ready("onnx") == count)
            print(f"{count} left {took_s:.1f} s later, at 2 clients")
        loads = [light, heavy]
    outcomes = [outcome for load in loads for outcome in load.outcomes]
    print(f"{len(outcomes)} requests, {len(faults(outcomes))} failed")
    assert faults(outcomes) == []


def test_a_rolling_update_cuts_nothing(cluster: Cluster, config: Config) -> None:
    """Every group and the ingress are replaced under short requests and under streams of a minute."""
    cluster.deploy(config)
    until(lambda: healthy(cluster.url) and cluster.ready("onnx") == 2 and cluster.group("onnx")["capacity"] == 32)
    before = cluster.ids(*GROUPS, "slow")
    updated = copy.deepcopy(config)
    models = updated["applications"][0]["args"]["models"]
    updated["applications"][0]["args"]["models"] = {"phi-4-mini-instruct-2": models["phi-4-mini-instruct"]}

    def short(number: int) -> Outcome:
        return ask(cluster.url, number, key=cluster.key, tokens=32)

    def replaced() -> bool:
        return healthy(cluster.url) and not before & cluster.ids(*GROUPS, "slow")

    with ThreadPoolExecutor(8) as pool, Load(4, short) as load:
        tokens = STREAM_S * SLOW_TOKENS_PER_S
        long_request = {"key": cluster.key, "tokens": tokens, "group": "slow", "streamed": True}
        streams = [pool.submit(ask, cluster.url, number, **long_request) for number in range(8)]
        time.sleep(5)
        cluster.deploy(updated)
        took_s = until(replaced, 600)
        long = [stream.result() for stream in streams]
    print(f"\nupdated in {took_s:.0f} s under {len(load.outcomes)} short requests and {len(long)} streams of {STREAM_S} s:")
    print(f"{len(faults(load.outcomes))} and {len(faults(long))} failed, longest silence {longest(load.outcomes):.1f} s")
    assert faults(load.outcomes) + faults(long) == []
    assert min(stream.took_s for stream in long) > STREAM_S - 5
    news = cluster.ids(*GROUPS, "slow")
    cluster.deploy(config)
    until(lambda: healthy(cluster.url) and not news & cluster.ids(*GROUPS, "slow"), 600)


def test_another_head_finds_the_cluster(cluster: Cluster) -> None:
    """The head is killed and started again; who asks the workers' proxies notices nothing."""
    until(lambda: all(healthy(cluster.worker_url(number)) for number in WORKERS))
    before = cluster.ids(*GROUPS, "slow")

    def short(number: int) -> Outcome:
        return ask(cluster.worker_url(WORKERS[number % 2]), number, key=cluster.key, tokens=32)

    with Load(4, short) as load:
        time.sleep(5)
        cluster.head.kill()
        killed_s = time.monotonic()
        time.sleep(5)
        cluster.head.start()
        until(lambda: healthy(cluster.url))
        back_s = time.monotonic() - killed_s
        time.sleep(30)
    after = cluster.ids(*GROUPS, "slow")
    print(
        f"\nhead away for 5 s: {len(load.outcomes)} requests at the workers, {len(faults(load.outcomes))} failed, longest silence"
    )
    print(f"{longest(load.outcomes):.1f} s; its own port answered {back_s:.1f} s after the kill")
    print(f"{len(before & after)} of {len(before)} replicas kept")
    assert faults(load.outcomes) == []
    assert after == before
