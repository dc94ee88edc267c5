"""Judges a generated answer: numbers compared, calls parsed, programs run in a process of their own.

Knows the checks of `conversation.Check` and nothing of models.
"""

import json
import re
import subprocess
import sys

from training.embedded.conversation import Check

TIME_LIMIT_S = 5.0
"""A program that runs longer has failed."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FENCE = re.compile(r"```(?:python)?\n(.*?)```", re.DOTALL)
_CALL = re.compile(r"<\|tool_call\|>(.*?)(?:<\|/tool_call\|>|$)", re.DOTALL)


def is_right(answer: str, check: Check) -> bool:
    """Return whether the text (special tokens visible) passes the check."""
    match check.kind:
        case "number":
            numbers = _NUMBER.findall(answer)
            return bool(numbers) and float(numbers[-1].replace(",", "")) == float(check.expected)
        case "contains":
            return check.expected.lower() in answer.lower()
        case "code":
            return _runs(answer, check.expected)
        case "call":
            found = _CALL.search(answer)
            return found is not None and _same_json(found[1], check.expected)
        case "json":
            return _same_json(answer, check.expected)
        case "exact":
            return answer.strip() == check.expected.strip()


def _same_json(text: str, expected: str) -> bool:
    try:
        return bool(json.loads(text) == json.loads(expected))
    except json.JSONDecodeError:
        return False


def _runs(answer: str, test: str) -> bool:
    found = _FENCE.search(answer)
    command = [sys.executable, "-I", "-c", f"{found[1] if found else answer}\n{test}\n"]
    try:
        return subprocess.run(command, capture_output=True, timeout=TIME_LIMIT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
