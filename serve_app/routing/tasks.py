"""Tells which task a prompt is, from its words. Pure and fast; a trained classifier will take its place.

Only the last user turn counts, and only its beginning: what comes first in a prompt is usually what is asked.
"""

import re

from serve_app.conversation import Chat, Prompt, RawText
from serve_app.types import Task

_READ_CHARS = 2000

_CODING = re.compile(
    r"```|\b(?:python|javascript|typescript|java|rust|golang|c\+\+|sql|bash|html|regex|algorithm|unit tests?|refactor|debug|compile"
    r"|stack trace|binary (?:search|tree)|linked list|recursi\w+|docstrings?)\b"
    r"|\b(?:write|implement|create|fix|explain)\b.{0,40}\b(?:function|class|method|script|program|code|query)\b"
    r"|\bdef \w+\(|\bclass \w+[:(]|#include\b|\bconsole\.log\b",
    re.IGNORECASE | re.DOTALL,
)
_MATH = re.compile(
    r"\d\s*[-+*/^=\u00d7\u00f7]\s*\d|\d\s*%|\b(?:calculate|compute|solve|equation|integral|derivative|percent(?:age)?|interest|average|probability"
    r"|area|perimeter|volume|radius|triangle|rectangle|circle|square root|fraction|prime|gcd|sum of|how (?:many|much|long|far|fast)"
    r"|km/h|mph|speed|distance)\b",
    re.IGNORECASE,
)
_REASONING = re.compile(
    r"\b(?:conclude|conclusion|deduce|infer|implies|therefore|syllogism|premises?|logical(?:ly)?|logic|riddle|puzzle|step by step"
    r"|must be true|taller than|older than|shorter than|younger than|who is the (?:tallest|oldest|shortest|youngest))\b"
    r"|\b(?:all|some|no)\s+\w+\s+are\b.*\b(?:all|some|no)\s+\w+\s+are\b",
    re.IGNORECASE | re.DOTALL,
)
_DIGIT = re.compile(r"\d")


def classify(prompt: Prompt) -> Task:
    """Return `tools` where tools are offered, else the task that the prompt's wording shows, `general` where nothing does."""
    if isinstance(prompt, Chat) and prompt.tools:
        return Task.TOOLS
    text = _asked(prompt)[:_READ_CHARS]
    if _CODING.search(text):
        return Task.CODING
    if _MATH.search(text) and _DIGIT.search(text):
        return Task.MATH
    if _REASONING.search(text):
        return Task.REASONING
    return Task.GENERAL


def _asked(prompt: Prompt) -> str:
    if isinstance(prompt, Chat):
        return next((message.content for message in reversed(prompt.messages) if message.role == "user"), "")
    return prompt.text if isinstance(prompt, RawText) else ""
