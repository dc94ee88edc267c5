"""Several processes use one store, and are killed at any moment."""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from serve_app.store.base import Addition, Store
from serve_app.store.sqlite_schema import FILE
from tests.store.conftest import SHARED
from tests.store.servers import RedisServer
from tests.store.worker import open_store

ROOT = Path(__file__).parents[2]
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=SHARED)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The arguments of `worker.open_store` for a store of the test's own."""
    if request.param == "sqlite":
        return "sqlite", str(tmp_path / "state")
    server: RedisServer = request.getfixturevalue("running_redis")
    return "redis", f"{server.url} {tmp_path.name}"


@pytest.fixture
async def shared(place: tuple[str, str]) -> AsyncIterator[Store]:
    opened = open_store(*place)
    yield opened
    await opened.close()


@pytest.fixture
def begin(place: tuple[str, str], tmp_path: Path) -> Iterator[Begin]:
    """Starts a worker; its lines go to a file, so that none is lost with it."""
    begun: list[subprocess.Popen[str]] = []

    def start(task: str, name: str) -> "subprocess.Popen[str]":
        with (tmp_path / f"{name}.out").open("a") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.store.worker", *place, task, name],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=out,
                text=True,
            )
        begun.append(worker)
        return worker

    yield start
    for worker in begun:
        worker.kill()
        worker.wait(timeout=20)
        assert worker.stdin is not None
        worker.stdin.close()


def _lines(tmp_path: Path, name: str) -> list[str]:
    """Return the whole lines that a worker wrote."""
    file = tmp_path / f"{name}.out"
    return file.read_text().rpartition("\n")[0].split("\n") if file.exists() and "\n" in file.read_text() else []


async def _wait(until: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not until():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


async def _sums(store: Store, prefix: str) -> dict[str, int]:
    return {count.key: count.sum for count in (await store.scan_counts(prefix)).items}


@pytest.mark.parametrize("deaths", [8, pytest.param(60, marks=pytest.mark.slow)])
async def test_what_returned_is_kept_whatever_is_killed(shared: Store, begin: Begin, tmp_path: Path, deaths: int) -> None:
    rng = random.Random(deaths)
    kills = 0
    running = {f"w{number}": begin("count", f"w{number}") for number in range(2)}
    while kills < deaths:
        await _wait(lambda: all(_lines(tmp_path, name) for name in running))
        await asyncio.sleep(rng.uniform(0, 0.15))
        victim = rng.choice(sorted(running))
        running[victim].kill()
        running.pop(victim).wait(timeout=20)
        kills += 1
        running[f"w{kills + 1}"] = begin("count", f"w{kills + 1}")
    for worker in running.values():
        worker.kill()
        worker.wait(timeout=20)
    own, (total,) = await _sums(shared, "own/"), (await _sums(shared, "sum")).values()
    assert total == sum(own.values())  # both counters of a call or neither
    for key, counted in own.items():
        written = len(_lines(tmp_path, key.removeprefix("own/")))
        assert written <= counted <= written + 1  # the one call whose answer was not written yet
    assert total > 20


async def test_repeated_batches_make_the_sum_exact(shared: Store, begin: Begin, tmp_path: Path) -> None:
    rng = random.Random(2)
    done = 0
    for _ in range(6):
        worker = begin("count_in_batches", "b")
        assert worker.stdin is not None
        worker.stdin.write(f"{done}\n")
        worker.stdin.flush()
        before = len(_lines(tmp_path, "b"))
        await _wait(lambda before=before: len(_lines(tmp_path, "b")) > before)  # type: ignore[misc]
        await asyncio.sleep(rng.uniform(0, 0.1))
        worker.kill()
        worker.wait(timeout=20)
        # Its last batch may have been carried out or not: the next worker repeats it.
        done = int(_lines(tmp_path, "b")[-1])
    known = done + 1
    assert (await _sums(shared, "sum"))["sum"] in (10 * known, 10 * (known + 1))
    await asyncio.gather(*(_repeat(shared, number) for number in range(known + 1)))
    assert (await _sums(shared, "sum"))["sum"] == 10 * (known + 1)


async def _repeat(store: Store, number: int) -> None:
    await store.add([Addition("sum", 10)], batch=f"b/{number}")


async def test_a_quota_is_met_exactly_by_all_together(shared: Store, begin: Begin, tmp_path: Path) -> None:
    workers = [begin("take", f"t{number}") for number in range(3)]
    await asyncio.gather(*(asyncio.to_thread(worker.wait, 60) for worker in workers))
    granted = sum(len(_lines(tmp_path, f"t{number}")) for number in range(3))
    assert granted == 1000 // 7
    assert (await _sums(shared, "quota")) == {"quota": 7 * granted}
    assert sum((await _sums(shared, "own/")).values()) == granted


async def test_a_killed_holder_gives_its_place_back(shared: Store, begin: Begin, tmp_path: Path) -> None:
    first, second = begin("hold", "h0"), begin("hold", "h1")
    await _wait(lambda: bool(_lines(tmp_path, "h0") and _lines(tmp_path, "h1")))
    assert await shared.acquire("places", slots=2, ttl_s=1) is None
    await asyncio.sleep(1.2)
    assert await shared.acquire("places", slots=2, ttl_s=1) is None  # both renew
    first.kill()
    first.wait(timeout=20)
    killed_at = time.monotonic()
    while await shared.acquire("places", slots=2, ttl_s=30) is None:
        assert time.monotonic() < killed_at + 10
        await asyncio.sleep(0.02)
    assert second.poll() is None
    assert len(_lines(tmp_path, "h1")) == 1


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_many_make_the_file_at_once(shared: Store, begin: Begin, tmp_path: Path) -> None:
    workers = [begin("open_only", f"o{number}") for number in range(4)]
    await asyncio.gather(*(asyncio.to_thread(worker.wait, 60) for worker in workers))
    assert [worker.returncode for worker in workers] == [0] * 4
    assert len((await shared.scan("o")).items) == 4
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "state").iterdir()} == {0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / FILE).exists()
