"""A small world in which everything that the operations page shows happens: the script of the scripted server.

Groups are ready, load with progress, fail, are drained, sleep and misbehave; requests come, fail over and end; actions have the
effect that the page announces. Time passes only by `tick`, and chance comes from a seed, so a test sees the same world each time.
"""

import random
from typing import Any

from tests.pages import ops_data as data

TASKS = ("general", "math", "coding", "reasoning")
KEYS = ("anonymous", "team-search", "nightly-batch")
SERVES = {"math": "onnx", "reasoning": "onnx", "general": "onnx", "coding": "vllm"}


class World:
    """Groups, requests under way, and what happened in the last quarter of an hour."""

    def __init__(self, now: float, seed: int = 7) -> None:
        self.now = now
        self._chance = random.Random(seed)
        self._number = 0
        self.groups = {each["name"]: each for each in _first_groups(now)}
        self.live: dict[str, dict[str, Any]] = {}
        self.finished: list[dict[str, Any]] = []
        """Newest first."""
        self.details: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self._build_past()
        for _ in range(5):
            self.begin()

    def snapshot(self) -> dict[str, Any]:
        """Return the state."""
        groups = [self._sum(each) for each in self.groups.values()]
        ingresses = [
            data.ingress(active=len(self.live), uptime_s=self.now - data.NOW + 93_600),
            data.ingress("cd34", node="node-b", active=0, uptime_s=5_400.0, pss_bytes=None),
        ]
        return data.state(self.now, groups, list(self.live.values()), ingresses=ingresses)

    def hello(self) -> dict[str, Any]:
        return data.hello(self.now, self.history, self.finished, self.snapshot())

    def begin(self, **changes: Any) -> str:
        """Start a request and return its id."""
        self._number += 1
        name = f"req-{self._number:06d}"
        task = self._chance.choice(TASKS)
        about = {"task": task, "group": SERVES[task], "key": self._chance.choice(KEYS), "completion_tokens": 0, "age_s": 0.0}
        about["prompt_tokens"] = self._chance.randrange(8, 900)
        self.live[name] = data.live(name, **about | changes)
        self._place(self.live[name], 1)
        return name

    def end(self, name: str, outcome: str = "ok") -> dict[str, Any]:
        """End a request and return it as a finished one."""
        request = self.live.pop(name)
        self._place(request, -1)
        done = self._finish(request, outcome, self.now)
        self.finished.insert(0, done)
        del self.finished[1000:]
        return done

    def tick(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass; return the requests that ended, the oldest first."""
        self.now += seconds
        ended = []
        for name, request in list(self.live.items()):
            request["age_s"] = round(request["age_s"] + seconds, 2)
            request["phase"] = "answering"
            request["completion_tokens"] += int(seconds * self._chance.uniform(8, 40))
            if request["completion_tokens"] > 160 and self._chance.random() < 0.5:
                ended.append(self.end(name, self._chance.choices(("ok", "cancelled", "engine_dead"), (90, 6, 4))[0]))
        while len(self.live) < 4 or self._chance.random() < 0.4:
            self.begin()
        self._load(self.groups["vllm_int8"], seconds)
        return ended

    def measure(self) -> dict[str, Any]:
        """Return the next ten seconds for the charts."""
        latest = self._point(self.now)
        self.history = [*self.history, latest][-90:]
        return latest

    def drain(self, name: str, replica: str | None) -> dict[str, Any]:
        chosen = self._select(name, replica)
        for each in chosen:
            each["timeline"] = [*each["timeline"], {"phase": "draining", "at": self.now, "reason": "drained by an operator"}]
            each.update(phase="draining", reason="drained by an operator", since_s=self.now)
        running = sum(each["running"] for each in chosen)
        return data.ANSWERS["drain"] | {"group": name, "replicas": [each["id"] for each in chosen], "running": running}

    def resume(self, name: str, replica: str | None) -> dict[str, Any]:
        chosen = self._select(name, replica)
        for each in chosen:
            each["timeline"] = [*each["timeline"], {"phase": "ready", "at": self.now, "reason": ""}]
            each.update(phase="ready", reason=None, since_s=self.now)
        return data.ANSWERS["resume"] | {"group": name, "replicas": [each["id"] for each in chosen], "running": 0}

    def restart(self, name: str) -> dict[str, Any]:
        chosen = self._select(name, None)
        for each in chosen:
            phases = data.timeline(self.now, ("starting", 0, ""))
            each.update(phase="starting", reason=None, since_s=self.now, timeline=phases, last_error=None)
        return data.ANSWERS["restart"] | {"group": name, "restarting": [each["id"] for each in chosen]}

    def scale(self, name: str, least: int, most: int | None) -> dict[str, Any]:
        before = self.groups[name]["bounds"]
        bounds = {"min": least, "max": max(least, before["max"]) if most is None else most}
        self.groups[name]["bounds"] = bounds
        return data.ANSWERS["scale"] | {"group": name, "bounds": bounds, "before": before}

    def wake(self, name: str) -> dict[str, Any]:
        self.groups[name].update(phase="starting", reason=None)
        phases = data.timeline(self.now, ("starting", 0, ""))
        self.groups[name]["replicas"] = [data.replica(self.now, "sp01", phases, pss_bytes=None)]
        return data.ANSWERS["wake"] | {"group": name}

    def _select(self, name: str, replica: str | None) -> list[dict[str, Any]]:
        return [each for each in self.groups[name]["replicas"] if replica in (None, each["id"])]

    def _place(self, request: dict[str, Any], change: int) -> None:
        """Count the request in the least (or, at its end, most) loaded replica of its group."""
        everyone = self.groups[request["group"]]["replicas"]
        replicas = [each for each in everyone if each["phase"] == "ready"] or everyone
        chosen = (min if change > 0 else max)(replicas, key=lambda each: each["running"])
        chosen["running"] = max(0, chosen["running"] + change)
        chosen["tokens_per_second"] = round(chosen["running"] * 17.4, 1)
        if chosen["kv_total_tokens"]:
            chosen["kv_used_tokens"] = 655 + 900 * chosen["running"]
            chosen["kv_usage"] = chosen["kv_used_tokens"] / chosen["kv_total_tokens"]

    def _sum(self, group: dict[str, Any]) -> dict[str, Any]:
        phases = [each["phase"] for each in group["replicas"]]
        kept = {
            name: group[name]
            for name in ("model", "engine", "precision", "context_length", "reason", "silent", "breaker", "sleeps", "bounds")
        }
        phase = next(
            (each for each in ("ready", "warming", "loading", "starting", "draining", "failed") if each in phases), "asleep"
        )
        return data.group(group["name"], group["replicas"], **kept, phase=phase)

    def _load(self, group: dict[str, Any], seconds: float) -> None:
        """Let a loading replica make progress; at its end it begins anew, so that there is always one to see."""
        one = group["replicas"][0]
        done = (float(one["reason"].split()[-2]) + 2 * seconds) % 100 if one["phase"] == "loading" else 0.0
        if one["phase"] == "loading":
            one["reason"] = group["reason"] = f"exporting int8: {done:.0f} %"
            one["pss_bytes"] = int((0.4 + done / 100) * data.GIB)

    def _finish(self, request: dict[str, Any], outcome: str, at: float) -> dict[str, Any]:
        tokens, seconds = request["completion_tokens"], max(request["age_s"], 0.2)
        shared = ("ingress", "key", "model", "task", "group", "reason", "attempts", "prompt_tokens")
        answered = outcome in ("ok", "cancelled")
        done = data.finished(
            request["id"], at, outcome=outcome, completion_tokens=tokens, **{each: request[each] for each in shared}
        )
        done |= {"seconds": round(seconds, 3), "first_token_s": round(seconds * 0.08, 3) if answered else None}
        done["tokens_per_second"] = round(tokens / seconds, 1) if answered else None
        self.details[request["id"]] = _explain(done)
        return done

    def _point(self, at: float) -> dict[str, Any]:
        draw = self._chance
        busy = draw.uniform(0.6, 1.4)
        flow = {task: {SERVES[task]: draw.randrange(1, 6)} for task in TASKS}
        if draw.random() < 0.3:
            flow["coding"]["onnx"] = 1
        first = 0.08 * busy
        inter = 0.017 * busy
        return data.point(
            at,
            first_token_s={"p50": round(first, 4), "p95": round(first * draw.uniform(2, 4), 4)},
            inter_token_s={"p50": round(inter, 4), "p95": round(inter * draw.uniform(1.5, 3), 4)},
            ok=sum(sum(groups.values()) for groups in flow.values()),
            errors=int(draw.random() < 0.12) * draw.randrange(1, 4),
            cancelled=int(draw.random() < 0.2),
            running=int(5 * busy),
            waiting=max(0, int(6 * (busy - 1.1))),
            tokens_per_second=round(120 * busy, 1),
            replicas={name: len(each["replicas"]) for name, each in self.groups.items() if each["replicas"]},
            flow=flow,
        )

    def _build_past(self) -> None:
        for step in range(90, 0, -1):
            self.history.append(self._point(self.now - 10 * step))
        draw = self._chance
        for step in range(1000):
            self._number += 1
            task = draw.choice(TASKS)
            request = data.live(f"req-{self._number:06d}", task=task, group=SERVES[task], key=draw.choice(KEYS))
            request |= {"completion_tokens": draw.randrange(4, 700), "prompt_tokens": draw.randrange(8, 900)}
            request |= {"age_s": request["completion_tokens"] / draw.uniform(20, 60), "ingress": draw.choice(("ab12", "cd34"))}
            if step % 23 == 0:
                request |= {"attempts": 2, "group": "vllm" if SERVES[task] == "onnx" else "onnx", "reason": "failover"}
            outcome = draw.choices(("ok", "cancelled", "overloaded", "engine_dead", "deadline_exceeded"), (92, 4, 2, 1, 1))[0]
            self.finished.insert(0, self._finish(request, outcome, self.now - (1000 - step) * 0.85))


def _explain(done: dict[str, Any]) -> dict[str, Any]:
    """Return a finished request with candidates and timeline that fit its figures."""
    first = "onnx" if done["task"] != "coding" else "vllm"
    others = [each for each in ("onnx", "vllm") if each != first]
    candidates = [data.candidate(first, ahead=1, wait_s=0.12), *(data.candidate(each, ahead=0, wait_s=0.0) for each in others)]
    candidates += [
        data.candidate("onnx_int4", "restricted", wait_s=None),
        data.candidate("vllm_int8", "not-ready", wait_s=None),
        data.candidate("llama_cpp", "not-ready", wait_s=None),
    ]
    tokens = done["completion_tokens"]
    if done["attempts"] == 1:
        timeline = [
            data.attempt(0.004, done["group"], outcome="ok" if done["outcome"] == "cancelled" else done["outcome"], tokens=tokens)
        ]
    else:
        timeline = [
            data.attempt(0.004, first, "x1y2", "engine_dead", tokens // 3),
            data.attempt(round(done["seconds"] * 0.4, 3), done["group"], "v1w2", done["outcome"], tokens - tokens // 3),
        ]
    return data.detail(done, candidates, timeline)


def _first_groups(now: float) -> list[dict[str, Any]]:
    error = {
        "at": now - 340,
        "message": "the engine's step took longer than 60 s",
    }
    out_of_memory = {"at": now - 45, "message": "killed by the kernel while it loaded: out of memory"}
    loading = data.timeline(now, ("starting", 31.0, ""), ("loading", 22.5, "exporting int8: 35 %"))
    failed = data.timeline(now, ("starting", 95, ""), ("loading", 80, ""), ("failed", 45, out_of_memory["message"]))
    drained = [*data.started(now, 7_200), {"phase": "draining", "at": now - 12, "reason": "drained by an operator"}]
    empty = {"kv_used_tokens": None, "kv_total_tokens": None, "kv_bytes": None, "kv_usage": 0.0}
    return [
        data.group(
            "onnx",
            [
                data.replica(now, "x1y2", data.started(now, 86_000, 14.1)),
                data.replica(now, "x3z4", data.started(now, 330, 11.8), node="node-b", last_error=error),
            ],
            bounds={"min": 2, "max": 4},
        ),
        data.group(
            "vllm",
            [
                data.replica(now, "v1w2", data.started(now, 85_950, 48.0), pss_bytes=int(3.1 * data.GIB), slots=16),
                data.replica(now, "v9q0", data.started(now, 600, 51.0), breaker="open", last_error=error),
            ],
            breaker="half-open",
            silent=["v0z0"],
        ),
        data.group(
            "vllm_int8",
            [data.replica(now, "v8i1", loading, pss_bytes=data.GIB // 2, **empty)],
            engine="vllm",
            precision="int8",
            reason="exporting int8: 35 %",
        ),
        data.group(
            "llama_cpp",
            [data.replica(now, "l1c1", failed, slots=4, pss_bytes=None, last_error=out_of_memory, **empty)],
            precision="f32",
            reason="killed by the kernel while it loaded: out of memory (needs 15.4 GiB, 7.8 GiB are free); use precision q4_0",
        ),
        data.group("onnx_int4", [data.replica(now, "i4d1", drained, running=2)], engine="onnx", precision="int4"),
        data.group("spare", [], engine="llama_cpp", precision="q8_0", sleeps=True, bounds={"min": 0, "max": 1}),
        data.group(
            "encoder",
            [data.replica(now, "e1n1", data.started(now, 86_100, 1.3), pss_bytes=410_000_000, slots=8, **empty)],
            model=data.ENCODER,
            engine=None,
            context_length=512,
            bounds=None,
        ),
    ]
