"""Finds where a streamed text may be in the middle of a mark. Pure."""

from collections.abc import Iterable


def overlap(text: str, marks: Iterable[str]) -> int:
    """Return the length of the longest suffix of `text` that is an incomplete beginning of one of `marks`."""
    longest = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), longest, -1):
            if mark.startswith(text[-length:]):
                longest = length
                break
    return longest
