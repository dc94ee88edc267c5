"""Calls as bare JSON, the whole answer or after `<|python_tag|>`. See `serve_app.chat.formats.base.CallSyntax`."""

from collections.abc import Callable, Collection, Mapping, Sequence

from serve_app.chat.answer_parser import CallParser
from serve_app.chat.formats.call_markers import MarkedCallParser, select_tokens
from serve_app.chat.formats.call_parser import CallMarks, JsonCallParser
from serve_app.chat.formats.call_rules import build_constraint
from serve_app.chat.formats.llama3.grammar import Llama3CallForm
from serve_app.chat.formats.llama3.tokens import CALLS_BEGIN, CALLS_BEGIN_MARK, MARKERS
from serve_app.conversation import AnswerForm, Chat, Tool
from serve_app.types import Constraint

_MARKS = CallMarks(begin=CALLS_BEGIN_MARK, separators=",;", keys=("parameters", "arguments"), bare_sequence=True)


class Llama3CallSyntax:
    """`{"name": ..., "parameters": {...}}`, several separated by `; `, at the beginning of an answer or after the marker.

    The marker counts as a token where it is one of the vocabulary, and otherwise as its spelling.
    """

    tools_as_text: Callable[[Chat], Chat] | None = None

    def __init__(self, added: Collection[str] = ()) -> None:
        """Write calls for a vocabulary with these added tokens."""
        self.markers: Mapping[str, str] = select_tokens(MARKERS, added)
        self._form = Llama3CallForm(marker_is_token=CALLS_BEGIN in added)

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """See `CallSyntax.build_constraint`."""
        return build_constraint(self._form, tools, form)

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """See `CallSyntax.build_call_parser`; with a strict tool a bare call is one that begins as the grammar writes it."""
        strict = any(tool.strict for tool in tools)
        beginnings = [begin for tool in tools for begin in self._form.begin_call(tool.name)]
        calls = JsonCallParser(_MARKS, {tool.name for tool in tools}, strict=strict, beginnings=beginnings, begun=begun)
        return MarkedCallParser(calls, MARKERS, self.markers)
