"""Calls as JSON between `<tool_call>` and `</tool_call>`. See `serve_app.chat.formats.base.CallSyntax`."""

from collections.abc import Callable, Collection, Mapping, Sequence

from serve_app.chat.answer_parser import CallParser
from serve_app.chat.formats.call_markers import MarkedCallParser, select_tokens
from serve_app.chat.formats.call_parser import CallMarks, JsonCallParser
from serve_app.chat.formats.call_rules import build_constraint
from serve_app.chat.formats.hermes.grammar import HermesCallForm
from serve_app.chat.formats.hermes.tokens import CALL_BEGIN, CALL_BEGIN_MARK, CALL_END, CALL_END_MARK, MARKERS
from serve_app.chat.formats.hermes.tool_text import write_tools_as_text
from serve_app.conversation import AnswerForm, Chat, Tool
from serve_app.types import Constraint

_MARKS = CallMarks(begin=CALL_BEGIN_MARK, end=CALL_END_MARK)


class HermesCallSyntax:
    """One block per call, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` on three lines, anywhere in an answer.

    A marker that is a token of the vocabulary counts only as that token; otherwise its spelling counts.
    """

    def __init__(self, added: Collection[str] = ()) -> None:
        """Write calls for a vocabulary with these added tokens."""
        self.markers: Mapping[str, str] = select_tokens(MARKERS, added)
        self.tools_as_text: Callable[[Chat], Chat] | None = write_tools_as_text
        self._form = HermesCallForm(begin_is_token=CALL_BEGIN in added, end_is_token=CALL_END in added)

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """See `CallSyntax.build_constraint`."""
        return build_constraint(self._form, tools, form)

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """See `CallSyntax.build_call_parser`; a strict tool is called with the marker only."""
        strict = any(tool.strict for tool in tools)
        calls = JsonCallParser(_MARKS, {tool.name for tool in tools}, strict=strict, begun=begun)
        return MarkedCallParser(calls, MARKERS, self.markers)
