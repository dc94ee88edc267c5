"""Phi-4-mini's tool calls in generated text: `<|tool_call|>[{"name", "arguments"}]<|/tool_call|>`, or `functools[...]`.

The markers are tokens, and text that spells one is text. `serve_app.chat.formats.call_parser` says what else is understood.
"""

from collections.abc import Collection

from serve_app.chat.formats.call_parser import FENCE, CallMarks, JsonCallParser
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN_MARK, CALLS_END_MARK

MARKS = CallMarks(begin=CALLS_BEGIN_MARK, end=CALLS_END_MARK, openers=("functools[", FENCE))


class Phi4CallParser(JsonCallParser):
    """Splits one answer into text and calls."""

    def __init__(self, names: Collection[str], *, marked_only: bool = False, begun: bool = False) -> None:
        """Know the offered tools' names; with `marked_only` only the model's own marker opens calls."""
        super().__init__(MARKS, names, strict=marked_only, begun=begun)
