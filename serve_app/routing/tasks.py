"""Classifies a prompt as a task, with a linear model over hashed features of its text. Pure and fast (docs/routing-policy.md).

The weights (`tasks.npz`, written by `training.classifier.train`) hold a table of bytes and the lexicon; loading executes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.config import RoutingSettings
from serve_app.conversation import Chat, Prompt, RawText, TaskDecision, TaskExample
from serve_app.routing.features import GROUPS, MOST_ROWS, OFFSETS, TABLE_ROWS, Lexicon, extract
from serve_app.types import Task

WEIGHTS = Path(__file__).with_name("tasks.npz")
FORMAT = 2
"""Layout of the weights file."""
_CONTEXT_WEIGHT = 0.6
"""Weight of earlier turns beside an empty last turn."""
_CONTEXT_CHARS = 60
"""A last turn of this length or more is classified alone."""
_CONTEXT_TURNS = 2
DEFAULT_THRESHOLD = RoutingSettings().task_threshold

Floats = NDArray[np.float32]
_SHARES = (np.maximum(np.arange(MOST_ROWS), 1) ** -0.5).astype(np.float32)
"""Weight of each row in a group, by the group's number of rows."""


@dataclass(frozen=True, slots=True)
class TaskClassifier:
    """The weights in memory."""

    labels: tuple[Task, ...]
    table: Floats
    """One row per feature, one column per label; rows are multiplied by the gain of their group."""
    bias: Floats
    lexicon: Lexicon

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> "TaskClassifier":
        """Read weights; raises `ValueError` for a file of another layout."""
        with np.load(path, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT or file["table"].shape[0] != TABLE_ROWS:
                raise ValueError(f"{path.name} does not fit this version's features; train it anew (docs/routing-policy.md)")
            table = file["table"].astype(np.float32)
            for at, group in enumerate(GROUPS):
                end = OFFSETS[GROUPS[at + 1]] if at + 1 < len(GROUPS) else TABLE_ROWS
                table[OFFSETS[group] : end] *= file["scales"][at]
            labels = tuple(Task(str(label)) for label in file["labels"])
            lexicon = Lexicon.build(file["words"], file["concepts"])
            return cls(labels, table, file["bias"].astype(np.float32), lexicon)

    def logits(self, text: str) -> Floats:
        """Return one logit per label."""
        groups = extract(text, self.lexicon)
        counts = [len(rows) for rows in groups]
        shares = _SHARES[counts].repeat(counts)
        return np.asarray(shares @ self.table.take(np.concatenate(groups), axis=0) + self.bias, dtype=np.float32)

    def probabilities(self, text: str, context: str = "") -> dict[Task, float]:
        """Return the probability of each label; `context` (the earlier turns) counts more the shorter `text` is."""
        logits = self.logits(text)
        share = _CONTEXT_WEIGHT * max(0.0, 1 - len(text) / _CONTEXT_CHARS) if context else 0.0
        if share > 0:
            logits = (1 - share) * logits + share * self.logits(context)
        odds = np.exp(logits - logits.max())
        return {label: float(chance) for label, chance in zip(self.labels, odds / odds.sum(), strict=True)}


@cache
def classifier() -> TaskClassifier:
    """Return the shipped classifier, read once."""
    return TaskClassifier.load()


def classify(prompt: Prompt, threshold: float = DEFAULT_THRESHOLD) -> TaskDecision:
    """Decide from the prompt alone.

    Reasons: `tools` (tools are offered), `classified`, `abstained` (no task reached `threshold`, so `general`), `no-text`
    (token ids, or an empty prompt).
    """
    if isinstance(prompt, Chat) and prompt.tools:
        return TaskDecision(task=Task.TOOLS, reason="tools")
    text, context = _turns(prompt)
    if not text.strip():
        return TaskDecision(task=Task.GENERAL, reason="no-text")
    chances = classifier().probabilities(text, context)
    best = max(chances, key=chances.__getitem__)
    if chances[best] < threshold:
        return TaskDecision(task=Task.GENERAL, reason="abstained", probabilities=chances)
    return TaskDecision(task=best, reason="classified", probabilities=chances)


def decide(given: Task | None, prompt: Prompt, threshold: float = DEFAULT_THRESHOLD) -> TaskDecision:
    """Return the task that the client gave (reason `requested`), else the result of `classify`."""
    return TaskDecision(task=given, reason="requested") if given is not None else classify(prompt, threshold)


def confusion(examples: Iterable[TaskExample], threshold: float = DEFAULT_THRESHOLD) -> dict[Task, dict[Task, int]]:
    """Return how often each given task was classified as each task: `[given][decided]`."""
    counts = {given: dict.fromkeys(_INFERRED, 0) for given in _INFERRED}
    for example in examples:
        counts[example.task][classify(RawText(text=example.text), threshold).task] += 1
    return counts


_INFERRED = (Task.MATH, Task.CODING, Task.REASONING, Task.GENERAL)
"""Tasks of a text; `tools` follows from the request instead."""


def _turns(prompt: Prompt) -> tuple[str, str]:
    """Return the last user turn, and the user turns before it."""
    if isinstance(prompt, Chat):
        turns = [message.content for message in prompt.messages if message.role == "user"]
        return (turns[-1], "\n".join(turns[-1 - _CONTEXT_TURNS : -1])) if turns else ("", "")
    return (prompt.text if isinstance(prompt, RawText) else ""), ""
