"""Builds the grammars of tool calls: forced calls, guided calls, and either calls or an answer.

A `CallForm` says how one syntax writes calls; the rules of arguments are the same in all (`argument_rules`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

from serve_app.chat.formats.argument_rules import write_exact_arguments, write_guided_arguments
from serve_app.chat.lark import quote_literal, write_answer_rule
from serve_app.conversation import AnswerForm, Tool, ToolChoice
from serve_app.types import Constraint, Grammar, JsonSchema

MAX_CALLS = 8
"""Most calls in an answer that must call."""
TEXT_RULES = ("text: TEXT", "TEXT: /(.|\\n)+/")
"""Rules of any text; it cannot contain a control token."""


class CallForm(ABC):
    """How one syntax writes calls in an answer, as rules over `call`. A value: equal forms write equal grammars."""

    @abstractmethod
    def begin_call(self, name: str) -> tuple[str, ...]:
        """Return the texts with which a call to the tool `name` may begin; arguments and a closing brace follow."""

    @abstractmethod
    def write_forced(self, *, parallel: bool) -> list[str]:
        """Return the rules from `start` to `call` of an answer that is a call, or several when `parallel`."""

    @abstractmethod
    def write_guided(self, tools: Sequence[Tool]) -> list[str]:
        """Return the rules from `start` to `call` of any text with calls."""

    @abstractmethod
    def write_choice(self, tools: Sequence[Tool], answer: Constraint | None, *, parallel: bool) -> list[str]:
        """Return the rules from `start` to `call` of either calls or the rule `answer`; any text instead where it is None."""

    def write_calls(self, tools: Sequence[Tool]) -> list[str]:
        """Return the rule `call`, which refers to `arguments0`, `arguments1` ... of the tools."""
        alternatives = (
            f"{quote_literal(begin)} arguments{at} {quote_literal('}')}"
            for at, tool in enumerate(tools)
            for begin in self.begin_call(tool.name)
        )
        return ["call: " + " | ".join(alternatives)]


def write_repeats(separator: str, *, parallel: bool, rule: str = "call") -> str:
    """Return the part of a rule after its first call: empty, or when `parallel` up to `MAX_CALLS` - 1 further ones.

    `separator` is Lark source, `rule` the name of the rule that is repeated.
    """
    return f" ({separator} {rule}){{0,{MAX_CALLS - 1}}}" if parallel else ""


def build_constraint(form: CallForm, tools: Sequence[Tool], wanted: AnswerForm) -> Constraint | None:
    """See `CallSyntax.build_constraint`."""
    if not tools:
        return wanted.format
    if wanted.tool_choice is ToolChoice.REQUIRED:
        callable_tools = [tool for tool in tools if not wanted.callable or tool.name in wanted.callable]
        return build_forced_calls(form, callable_tools, parallel=wanted.parallel)
    if wanted.format is None and wanted.parallel:
        return build_guided_calls(form, tuple(tools))
    return build_calls_or_answer(form, wanted.format, tools, parallel=wanted.parallel)


def build_forced_calls(form: CallForm, tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """Return the grammar of a call to one of `tools`, or of several calls when `parallel`, in the model's own form.

    Arguments keep to the tool's schema; where the tool is not strict, to the rules that llguidance can enforce.
    """
    return Grammar("\n".join([*form.write_forced(parallel=parallel), *form.write_calls(tools), *write_exact_arguments(tools)]))


@lru_cache(32)
def build_guided_calls(form: CallForm, tools: tuple[Tool, ...]) -> Grammar:
    """Return the grammar of any text with calls to `tools` in it; see `write_guided_arguments`.

    With a strict tool the grammar is a promise to the client; otherwise it is optional.
    """
    rules = [*form.write_guided(tools), *form.write_calls(tools), *write_guided_arguments(tools)]
    return Grammar("\n".join(rules), optional=not any(tool.strict for tool in tools))


def build_calls_or_answer(form: CallForm, answer: Constraint | None, tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """Return the grammar of either calls or an answer: one that keeps to `answer`, or any text where that is None.

    Raises `ValueError` for a pattern that llguidance cannot parse.
    """
    answer_rules = [] if answer is None else [f"answer: {write_answer_rule(answer)}"]
    start, *rules = form.write_choice(tools, answer, parallel=parallel)
    rules += [*form.write_calls(tools), *write_exact_arguments(tools)]
    lenient = answer if isinstance(answer, JsonSchema) and answer.lenient else None
    return Grammar("\n".join([start, *answer_rules, *rules]), answer=lenient)
