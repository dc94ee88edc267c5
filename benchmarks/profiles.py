"""Start a configuration from nothing and measure it: `python -m benchmarks.profiles cluster/profiles/cpu-8gb.yaml MODEL`.

Prints the time to the first streamed token of each group, the peak of the proportional memory (PSS) of all processes, those of Ray
included, over the start, the export and four parallel requests of 500 + 32 tokens a group, and the peak of each kind of process.
The cache of derived forms is an empty folder unless `--cache` names one.
"""

import argparse
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import httpx
import yaml

from tests.live import LiveApp, live

PROMPT_TOKENS, ANSWER_TOKENS = 500, 32
START_LIMIT_S = 3600


def _descendants(pid: int) -> Iterator[int]:
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, file.read_text().split()):
                yield child
                yield from _descendants(child)


def _pss_bytes(pid: int) -> int:
    """Return a process's proportional set size; 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _name(pid: int) -> str:
    """Return what a process is, in short."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").split()
    except OSError:
        return "ended"
    title = " ".join(words[:1])
    return title if title.startswith(("ray::", "VLLM::")) else Path(title).name + (" serve run" if "run" in words else "")


class Watch:
    """Samples the memory of all descendants of this process, itself left out."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.peak_bytes = 0
        self.at_peak: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self._end = threading.Event()

    def sample(self) -> None:
        """Look once."""
        found: Counter[str] = Counter()
        for pid in set(_descendants(os.getpid())):
            found[_name(pid)] += _pss_bytes(pid)
        for name, size in found.items():
            self.peaks[name] = max(self.peaks[name], size)
        if found.total() > self.peak_bytes:
            self.peak_bytes, self.at_peak = found.total(), found

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample every half second while the block runs."""

        def run() -> None:
            while not self._end.wait(0.5):
                self.sample()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()


def _load(app: LiveApp, group: str, parallel: int) -> None:
    """Send the parallel requests and print their speed."""

    def ask(number: int) -> float:
        body = {
            "prompt": [(1000 * number + at) % 190_000 for at in range(PROMPT_TOKENS)],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        }
        began = time.monotonic()
        response = httpx.post(f"{app.url}/v1/completions", json=body, headers={"x-engine": group}, timeout=1800)
        response.raise_for_status()
        assert response.json()["usage"]["completion_tokens"] == ANSWER_TOKENS
        return time.monotonic() - began

    with ThreadPoolExecutor(parallel) as pool:
        seconds = list(pool.map(ask, range(1, parallel + 1)))
    print(f"{group}: {parallel} request(s) of {PROMPT_TOKENS} + {ANSWER_TOKENS} tokens in {max(seconds):.0f} s", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cache", type=Path, help="the folder of derived forms; left out: a new one, removed at the end")
    parser.add_argument("--requests", type=int, default=4, help="parallel requests a group")
    options = parser.parse_args()
    config = yaml.safe_load(options.profile.read_text())
    config["applications"][0]["args"]["models"]["phi-4-mini-instruct"]["path"] = str(options.model.absolute())
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="phi-cache-") as empty:
        environment = {"PHI_SERVE_CACHE": str(options.cache or empty)}
        with mock.patch.dict(os.environ, environment), watch.running(), live(config, limit_s=START_LIMIT_S) as app:
            for group, seconds in app.first_answer_s.items():
                print(f"{group}: first streamed token after {seconds:.0f} s", flush=True)
            print(f"peak until then: {watch.peak_bytes / 2**30:.2f} GiB", flush=True)
            for group in app.first_answer_s:
                _load(app, group, options.requests)
        print(f"\npeak of all processes: {watch.peak_bytes / 2**30:.2f} GiB (PSS), of which")
        for name, size in watch.at_peak.most_common(12):
            print(f"  {name:<60} {size / 2**20:8,.0f} MiB")
        print("peaks of processes: " + ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in watch.peaks.most_common(8)))


if __name__ == "__main__":
    main()
