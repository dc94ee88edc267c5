"""Trains the task classifier and writes its weights: `make train-routing`.

    python -m training.routing.train DATA... [--left-out]

DATA are JSONL files of `{"text", "task", "source"}` rows, or folders, of which `train.jsonl` is read. The project's own prompts
(`generate.py`) are always added. `--left-out` also trains once per source without it and prints the accuracy on its rows.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from serve_app.routing.features import GROUPS, OFFSETS, TABLE_ROWS
from serve_app.routing.tasks import WEIGHTS
from training.routing.fit import GAINS, Floats, Space, fit, matrix
from training.routing.generate import generate
from training.routing.lexicon import arrays, load

GENERATED = "generated"
STRENGTH = 3.0
"""Inverse regularisation."""
_SOURCE_BALANCE = 0.3
"""Rows of a source of n rows weigh n to the minus this power, so that no source drowns the others."""

Row = dict[str, str]


def read_rows(paths: Iterable[Path]) -> Iterator[Row]:
    """Yield the rows of the files; folders stand for their `train.jsonl`."""
    for path in paths:
        file = path / "train.jsonl" if path.is_dir() else path
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield {"text": row["text"], "task": row["task"], "source": row.get("source", file.stem)}


def generated_rows() -> list[Row]:
    """Return the project's own prompts."""
    return [{"text": example.text, "task": str(example.task), "source": GENERATED} for example in generate()]


def weigh(rows: Sequence[Row]) -> Floats:
    """Return a weight per row: labels count the same in sum, and within a label large sources are damped."""
    sizes = Counter(row["source"] for row in rows)
    damped = [sizes[row["source"]] ** -_SOURCE_BALANCE for row in rows]
    totals: dict[str, float] = {}
    for row, weight in zip(rows, damped, strict=True):
        totals[row["task"]] = totals.get(row["task"], 0.0) + weight
    weights = np.array([weight / totals[row["task"]] for row, weight in zip(rows, damped, strict=True)], dtype=np.float32)
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def left_out(rows: Sequence[Row], space: Space) -> dict[str, tuple[int, int]]:
    """Train once without each source; return (right, rows) on it."""
    labels = np.array([row["task"] for row in rows])
    sources = np.array([row["source"] for row in rows])
    found = {}
    for source in sorted(set(sources) - {GENERATED}):
        kept = np.flatnonzero(sources != source)
        model = fit(space.factor[kept], labels[kept], weigh([rows[at] for at in kept]), STRENGTH)
        right = model.predict(space.factor[sources == source]) == labels[sources == source]
        found[str(source)] = (int(right.sum()), len(right))
    return found


def write(path: Path, table: Floats, bias: Floats, labels: Sequence[str]) -> None:
    """Write the weights, one byte each: a group's largest is 127, its scale and gain are multiplied in when they are read."""
    scales, packed = [], np.zeros((TABLE_ROWS, len(labels)), dtype=np.int8)
    for at, group in enumerate(GROUPS):
        part = slice(OFFSETS[group], OFFSETS[GROUPS[at + 1]] if at + 1 < len(GROUPS) else TABLE_ROWS)
        largest = max(float(np.abs(table[part]).max()), 1e-9)
        packed[part] = np.round(table[part] / largest * 127)
        scales.append(largest / 127 * GAINS[group])
    words, concepts = arrays()
    np.savez_compressed(
        path,
        format=np.int64(1),
        labels=np.array(labels, dtype="U16"),
        table=packed,
        scales=np.array(scales, dtype=np.float32),
        bias=bias,
        words=words,
        concepts=concepts,
    )


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description="Train the task classifier.")
    parser.add_argument("data", nargs="+", type=Path, help="JSONL files, or folders that hold a train.jsonl")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--left-out", action="store_true", help="also print the accuracy on each source left out")
    options = parser.parse_args()
    rows = [*read_rows(options.data), *generated_rows()]
    print(f"{len(rows)} rows: {dict(Counter(row['task'] for row in rows))}", flush=True)
    space = Space.of(matrix([row["text"] for row in rows], load()))
    if options.left_out:
        found = left_out(rows, space)
        for source, (right, total) in found.items():
            print(f"without {source:<18} {right / total:6.1%} of {total}", flush=True)
        rights, totals = (sum(counts) for counts in zip(*found.values(), strict=True))
        print(f"all sources left out once: {rights / totals:.1%}", flush=True)
    model = fit(space.factor, [row["task"] for row in rows], weigh(rows), STRENGTH)
    write(options.out, space.primal(model.coef_.T.astype(np.float32)), model.intercept_.astype(np.float32), list(model.classes_))
    print(f"{options.out.name}: {options.out.stat().st_size / 2**10:,.0f} KiB")


if __name__ == "__main__":
    main()
