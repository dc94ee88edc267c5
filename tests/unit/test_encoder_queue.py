"""Which waiting inputs are computed together, and in which order requests are served."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.encoder.queue import InputQueue

LENGTHS = st.lists(st.lists(st.integers(1, 600), min_size=1, max_size=12), min_size=1, max_size=8)


@given(LENGTHS, st.integers(16, 1024))
def test_every_input_is_computed_once_in_batches_that_fit(requests: list[list[int]], most: int) -> None:
    queue = InputQueue(most)
    for owner, lengths in enumerate(requests):
        queue.add(owner, lengths)
    found = []
    assert (len(queue), queue.tokens) == (sum(map(len, requests)), sum(map(sum, requests)))
    while batch := queue.take():
        longest, shortest = max(each.length for each in batch), min(each.length for each in batch)
        assert len(batch) == 1 or len(batch) * longest <= most
        assert longest <= max(16, 2 * shortest)
        found += [(each.owner, each.index, each.length) for each in batch]
    expected = [(owner, at, length) for owner, lengths in enumerate(requests) for at, length in enumerate(lengths)]
    assert sorted(found) == expected  # type: ignore[type-var]
    assert len(queue) == 0


@given(LENGTHS, st.integers(0, 7))
def test_a_dropped_request_is_gone(requests: list[list[int]], dropped: int) -> None:
    queue = InputQueue(256)
    owners = [object() for _ in requests]
    for owner, lengths in zip(owners, requests, strict=True):
        queue.add(owner, lengths)
    first = queue.take()
    gone = owners[dropped % len(owners)]
    queue.drop(gone)
    rest = []
    while batch := queue.take():
        rest += batch
    assert not [each for each in rest if each.owner is gone]
    kept = sum(len(lengths) for owner, lengths in zip(owners, requests, strict=True) if owner is not gone)
    assert len(rest) + sum(each.owner is not gone for each in first) == kept


def test_a_short_request_does_not_wait_for_the_whole_of_a_long_one() -> None:
    queue = InputQueue(512)
    queue.add("long", [256] * 100)
    queue.take()
    queue.add("short", [8])
    owners = [{each.owner for each in queue.take()} for _ in range(2)]
    assert {"short"} in owners


def test_a_very_long_input_among_short_ones_is_neither_starved_nor_padded_to() -> None:
    queue = InputQueue(512)
    queue.add("long", [500])
    batches = []
    for request in range(200):  # more short inputs come than are computed
        queue.add(request, [6] * 90)
        batches.append(queue.take())
    alone = [at for at, batch in enumerate(batches) if batch[0].owner == "long"]
    assert len(alone) == 1
    assert len(batches[alone[0]]) == 1
    assert all(len(batch) == 85 for at, batch in enumerate(batches) if at not in alone)
