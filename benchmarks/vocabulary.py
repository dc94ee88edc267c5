"""What a large vocabulary costs, as rows of the table in docs/performance.md: `python -m benchmarks.vocabulary MODEL [--live]`.

CPU time, not wall time, so that other work on the machine changes little. With `--live` the configuration is served with MODEL and
every group is asked for an answer with a tool grammar and with a JSON schema it has not seen, twice; what the group's processes
compute for the whole request is printed, less that of the same request without them.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.phi4.call_grammar import build_forced_calls
from serve_app.chat.grammar import GrammarCheck, require_lark, wrap_tokenizer
from serve_app.chat.tokenizer import Tokenizer
from serve_app.types import Constraint, JsonSchema, Sampling
from tests.live import LiveApp, live, shipped_config

TEXT = ("Continuous batching lets requests join a running batch at every step. " * 15)[:1024]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "email": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"name": name, "description": "A tool", "parameters": SCHEMA | {"properties": {**SCHEMA["properties"], f"{name}_id": {}}}}
    for name in ("create_user", "find_user", "update_user", "delete_user")
]


def cpu_ms(work: Callable[[], object], times: int = 1) -> float:
    """Return the CPU milliseconds of the calling process for one run of `work`."""
    began = time.process_time()
    for _ in range(times):
        work()
    return 1000 * (time.process_time() - began) / times


def resident_mb() -> float:
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def print_row(what: str, value: float, unit: str = "ms") -> None:
    """Print a row of the table."""
    print(f"| {what} | {value:,.2f} {unit} |", flush=True)


def measure_here(folder: Path) -> None:
    """Print what needs no engine: the tokenizer, constraints as the ingress and the ONNX group use them, sampling."""
    from serve_app.engines.guidance import Guide
    from serve_app.engines.onnx.sampling import Sampler

    before = resident_mb()
    loaded: list[Tokenizer] = []
    print_row("loading the tokenizer", cpu_ms(lambda: loaded.append(Tokenizer.load(folder))))
    print_row("memory of the tokenizer", resident_mb() - before, "MB")
    (tokenizer,) = loaded
    size = tokenizer.vocabulary.size
    print_row("tokenizing 1 KB", cpu_ms(lambda: tokenizer.encode(TEXT, special=False), 50))
    print_row("preparing the ingress's check of constraints", cpu_ms(lambda: GrammarCheck(tokenizer)))
    wrapped = wrap_tokenizer(tokenizer)
    print_row("preparing an engine's constraints", cpu_ms(lambda: wrap_tokenizer(tokenizer)))
    from llguidance import LLMatcher

    constraints: dict[str, Constraint] = {
        "tool grammar": build_forced_calls(parse_tools(TOOLS), parallel=True),
        "JSON schema": JsonSchema(json.dumps(SCHEMA)),
    }
    logits = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    for name, constraint in constraints.items():
        grammar = require_lark(constraint)
        print_row(f"compiling the {name}", cpu_ms(lambda grammar=grammar: LLMatcher(wrapped, grammar)))  # type: ignore[misc]
        guide = Guide(LLMatcher(wrapped, grammar), size)
        costs, draw = [], np.random.default_rng(1)
        while not guide.is_stopped and len(costs) < 60:
            costs.append(cpu_ms(lambda guide=guide: guide.mask(logits)))  # type: ignore[misc]
            allowed = np.flatnonzero(guide.mask(logits) > -np.inf)
            guide.accept([int(draw.choice(allowed))])
        print_row(f"a mask of the {name}, median of {len(costs)} steps", float(np.median(costs)))
        print_row(f"a mask of the {name}, longest", max(costs))
    for name, options in (
        ("greedy", {"temperature": 0.0}),
        ("temperature 1", {}),
        ("top_p 0.9", {"top_p": 0.9}),
        ("top_k 40", {"top_k": 40}),
    ):
        for logprobs in (None, 5):
            sampler = Sampler(Sampling(seed=1, logprobs=logprobs, **options), (1, 2, 3))  # type: ignore[arg-type]
            sampler.draw(logits)
            label = f"sampling a row, {name}{', with logprobs' if logprobs else ''}"
            print_row(label, cpu_ms(lambda sampler=sampler: sampler.draw(logits), 30))  # type: ignore[misc]


def tree_cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and of all its descendants so far."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(tree_cpu_s(int(child)) for file in children for child in file.read_text().split())


def _request_cpu_ms(app: LiveApp, group: str, extra: dict[str, Any]) -> float:
    """Return what the group's processes and the ingress compute for one answer of 8 tokens, in milliseconds."""
    pids = [*app.pids(group), *app.pids("ingress")]
    before = sum(map(tree_cpu_s, pids))
    body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8} | extra
    response = httpx.post(f"{app.url}/v1/chat/completions", json=body, headers={"x-engine": group}, timeout=120)
    response.raise_for_status()
    return 1000 * (sum(map(tree_cpu_s, pids)) - before)


def measure_live(model: str, config: dict[str, Any]) -> None:
    """Serve `config` with `model` and print starts, the ingress's memory, and first and second uses on every group."""
    config["applications"][0]["args"]["models"]["phi-4-mini-instruct"]["path"] = model
    with live(config) as app:
        for group, seconds in app.first_answer_s.items():
            print_row(f"start of {group}, to its first token", seconds, "s (wall)")
        for pid in app.pids("ingress"):
            print_row("memory of the ingress", int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6, "MB")
        for group in app.first_answer_s:
            plain = min(_request_cpu_ms(app, group, {}) for _ in range(3))
            print_row(f"{group}: a request of 8 tokens", plain)
            functions = [{"type": "function", "function": tool} for tool in TOOLS]
            schema = {"type": "json_schema", "json_schema": {"name": "user", "schema": SCHEMA}}
            for name, extra in (
                ("tool grammar", {"tools": functions, "tool_choice": "required"}),
                ("JSON schema", {"response_format": schema}),
            ):
                for use in ("first", "second"):
                    print_row(f"{group}: {use} use of the {name}", max(0.0, _request_cpu_ms(app, group, extra) - plain))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--live", action="store_true", help="serve it and measure every group")
    parser.add_argument("--config", type=Path, help="another configuration than serve_config.yaml")
    options = parser.parse_args()
    print(f"| {options.model.name} | |\n|---|---|")
    measure_here(options.model)
    if options.live:
        config = yaml.safe_load(options.config.read_text()) if options.config else shipped_config()
        measure_live(str(options.model.absolute()), config)


if __name__ == "__main__":
    main()
