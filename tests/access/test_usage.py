"""Usage by key: exact to the token over killed processes, stores that are away, and full disks."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.access.journal import Journal
from serve_app.access.usage import DAY_S, Usage, UsageBook
from serve_app.caller import Caller, Scope
from serve_app.conversation import ChoiceEnd
from serve_app.errors import StoreUnavailable
from serve_app.record import RequestRecord
from serve_app.store.base import Addition, Store
from serve_app.store.memory import MemoryStore
from serve_app.types import FinishReason, Timings
from serve_app.types import Usage as Tokens

DAY = 1_800_000_000 // DAY_S * DAY_S


def _record(key: str = "bob", model: str = "phi", tokens: int = 7, outcome: str = "ok") -> RequestRecord:
    record = RequestRecord(request_id="r", caller=Caller(name=key, scopes=frozenset({Scope.USE})), served_model=model)
    record.outcome = outcome
    usage = Tokens(prompt_tokens=10, completion_tokens=tokens, cached_tokens=4)
    record.add_end(ChoiceEnd(reason=FinishReason.STOP, usage=usage, timings=Timings(prefill_s=0.25, decode_s=0.5)))
    return record


class _Sometimes(MemoryStore):
    """A store that is away, or that counts and loses its answer."""

    is_away = False
    loses_answers = False

    async def add(self, additions, *, batch=""):  # type: ignore[no-untyped-def]
        if self.is_away:
            raise StoreUnavailable("away")
        tallies = await super().add(additions, batch=batch)
        if self.loses_answers:
            raise StoreUnavailable("the answer was lost", reason="busy")
        return tallies


def _book(store: Store, folder: Path | None) -> UsageBook:
    return UsageBook(store, Journal(folder), clock=lambda: DAY + 5)


BOB = Usage(
    key="bob",
    model="phi",
    day=DAY,
    requests=1,
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=7,
    engine_ms=750,
)


async def test_usage_is_by_key_model_and_day(tmp_path: Path) -> None:
    book = _book(MemoryStore(), tmp_path)
    odd = _record("alice", "org/model:tag ä~=")
    for record in (_record(), _record(), odd, _record(outcome="engine_dead"), _record(outcome="cancelled")):
        book.note(record)
    (alice, bob) = await book.read()
    assert (alice.key, alice.model, alice.requests) == ("alice", "org/model:tag ä~=", 1)
    assert bob == replace(BOB, requests=4, errors=1, prompt_tokens=40, cached_tokens=16, completion_tokens=28, engine_ms=3000)
    assert await book.read(key="alice") == [alice]
    assert await book.read(key="ali") == []
    assert await book.read(since=DAY + DAY_S) == []
    assert await book.read(until=DAY) == []
    assert list(tmp_path.iterdir()) == []


async def test_a_store_that_comes_back_gets_everything_once(tmp_path: Path) -> None:
    store = _Sometimes()
    book = _book(store, tmp_path)
    store.is_away = True
    for _ in range(50):
        book.note(_record())
        await book.flush()
    assert len(list(tmp_path.iterdir())) <= 2
    store.is_away, store.loses_answers = False, True
    for _ in range(5):
        await book.flush()
    store.loses_answers = False
    book.note(_record())
    (bob,) = await book.read()
    assert (bob.requests, bob.completion_tokens) == (51, 51 * 7)
    assert list(tmp_path.iterdir()) == []


async def test_the_next_process_finds_what_a_killed_one_left(tmp_path: Path) -> None:
    store = MemoryStore()
    script = """
import sys, os, asyncio
from pathlib import Path
from tests.access.test_usage import _book, _record
from serve_app.store.memory import MemoryStore
book = _book(MemoryStore(), Path(sys.argv[1]))
for _ in range(5): book.note(_record())
print("noted", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"noted\n"
    assert await _book(store, tmp_path).read() == []  # it lives, and its segment is its own
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (file,) = tmp_path.iterdir()
    with file.open("ab") as torn:
        torn.write(b'["bob","phi",1')
    (bob,) = await _book(store, tmp_path).read()
    assert (bob.requests, bob.completion_tokens) == (5, 35)
    assert list(tmp_path.iterdir()) == []


async def test_a_segment_that_was_counted_and_not_removed_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    book = _book(store, tmp_path)
    book.note(_record())
    with monkeypatch.context() as patched:
        patched.setattr("serve_app.access.journal.Segment.remove", lambda segment: segment.release())
        await book.flush()
    assert len(list(tmp_path.iterdir())) == 1
    assert await _book(store, tmp_path).read() == [BOB]
    assert list(tmp_path.iterdir()) == []


async def test_without_a_writable_folder_nothing_is_lost_but_with_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    book = _book(MemoryStore(), tmp_path / "file" / "journal")
    for _ in range(3):
        book.note(_record())
        await book.flush()
    (bob,) = await book.read()
    assert bob.requests == 3
    assert len([record for record in caplog.records if "cannot be written" in record.getMessage()]) == 1


async def test_a_full_disk_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, line: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("serve_app.access.journal.os.write", full)
    book = _book(MemoryStore(), tmp_path)
    book.note(_record())
    assert await book.read() == [BOB]


async def test_many_keys_make_several_batches_that_count_once(tmp_path: Path) -> None:
    class _LosesTheSecond(MemoryStore):
        calls = 0

        async def add(self, additions: list[Addition], *, batch: str = "") -> object:  # type: ignore[override]
            self.calls += 1
            tallies = await super().add(additions, batch=batch)
            if self.calls == 2:
                raise StoreUnavailable("lost")
            return tallies

    store = _LosesTheSecond()
    book = _book(store, tmp_path)
    for at in range(400):
        book.note(_record(f"key{at}"))
    await book.flush()
    found = await book.read()
    assert len(found) == 400
    assert {(each.requests, each.completion_tokens) for each in found} == {(1, 7)}


async def test_a_line_that_nobody_can_read_costs_only_itself(tmp_path: Path) -> None:
    good = json.dumps(["bob", "phi", DAY, 1, 0, 10, 4, 7, 750])
    (tmp_path / "left.jsonl").write_text(f'{good}\nnonsense\n{{"k": 3}}\n{good[:-20]}\n')
    assert await _book(MemoryStore(), tmp_path).read() == [BOB]


async def test_closing_leaves_what_the_store_does_not_take_to_the_next_process(tmp_path: Path) -> None:
    store = _Sometimes()
    book = _book(store, tmp_path)
    store.is_away = True
    book.note(_record())
    await book.close()
    store.is_away = False
    assert await _book(store, tmp_path).read() == [BOB]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_ingresses_of_a_real_store_add_up(opener: Callable[[str], Store], kind: str, tmp_path: Path) -> None:
    stores = [opener(kind) for _ in range(3)]
    books = [_book(store, tmp_path / "journal") for store in stores]
    for at in range(300):
        books[at % 3].note(_record())
    await asyncio.gather(*(book.flush() for book in books))
    (bob,) = await books[0].read()
    assert (bob.requests, bob.completion_tokens, bob.engine_ms) == (300, 2100, 300 * 750)
    for store in stores:
        await store.close()
