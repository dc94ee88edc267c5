"""Phi-4-mini's syntax of tool calls. See `serve_app.chat.formats.base.CallSyntax`."""

from collections.abc import Mapping, Sequence

from serve_app.chat.answer_parser import CallParser
from serve_app.chat.formats.phi4.call_grammar import build_calls_or_answer, build_forced_calls, build_guided_calls
from serve_app.chat.formats.phi4.calls import Phi4CallParser
from serve_app.chat.formats.phi4.tokens import MARKERS
from serve_app.conversation import AnswerForm, Tool, ToolChoice
from serve_app.types import Constraint


class Phi4CallSyntax:
    """Calls as a JSON list between `<|tool_call|>` and `<|/tool_call|>`."""

    markers: Mapping[str, str] = MARKERS

    def build_constraint(self, tools: Sequence[Tool], form: AnswerForm) -> Constraint | None:
        """See `CallSyntax.build_constraint`."""
        if not tools:
            return form.format
        if form.tool_choice is ToolChoice.REQUIRED:
            callable_tools = [tool for tool in tools if not form.callable or tool.name in form.callable]
            return build_forced_calls(callable_tools, parallel=form.parallel)
        if form.format is None and form.parallel:
            return build_guided_calls(tuple(tools))
        return build_calls_or_answer(form.format, tools, parallel=form.parallel)

    def build_call_parser(self, tools: Sequence[Tool], *, begun: bool) -> CallParser:
        """See `CallSyntax.build_call_parser`; a strict tool is called with the model's own marker only."""
        return Phi4CallParser({tool.name for tool in tools}, marked_only=any(tool.strict for tool in tools), begun=begun)
