"""Phi-4-mini's syntax of tool calls. See `serve_app.chat.formats.base.CallSyntax`."""

from collections.abc import Callable, Mapping, Sequence

from serve_app.chat.answer_parser import CallParser
from serve_app.chat.formats.call_rules import build_constraint
from serve_app.chat.formats.phi4.call_grammar import FORM
from serve_app.chat.formats.phi4.calls import Phi4CallParser
from serve_app.chat.formats.phi4.tokens import MARKERS
from serve_app.conversation import AnswerForm, Chat, Tool
from serve_app.types import Constraint


class Phi4CallSyntax:
    """Calls as a JSON list between `<|tool_call|>` and `<|/tool_call|>`."""

    markers: Mapping[str, str] = MARKERS

    tools_as_text: Callable[[Chat], Chat] | None = None

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """See `CallSyntax.build_constraint`."""
        return build_constraint(FORM, tools, form)

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """See `CallSyntax.build_call_parser`; a strict tool is called with the model's own marker only."""
        return Phi4CallParser({tool.name for tool in tools}, marked_only=any(tool.strict for tool in tools), begun=begun)
