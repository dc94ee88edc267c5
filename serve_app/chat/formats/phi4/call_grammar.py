"""The grammars of Phi-4-mini's calls: a JSON list between two control tokens, anywhere in a text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.chat.formats import call_rules
from serve_app.chat.formats.call_rules import TEXT_RULES, CallForm, write_repeats
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_END
from serve_app.conversation import Tool
from serve_app.types import Constraint, Grammar

_CALLS = f"{CALLS_BEGIN} calls {CALLS_END}"


@dataclass(frozen=True, slots=True)
class Phi4CallForm(CallForm):
    """See `CallForm`; byte for byte what the model's own template writes."""

    def begin_call(self, name: str) -> tuple[str, ...]:
        """See `CallForm.begin_call`."""
        return (f'{{"name": {json.dumps(name)}, "arguments": ',)

    def write_forced(self, *, parallel: bool) -> list[str]:
        """See `CallForm.write_forced`."""
        return [f"start: {_CALLS}", _write_list(parallel=parallel)]

    def write_guided(self, tools: Sequence[Tool]) -> list[str]:
        """See `CallForm.write_guided`."""
        return [f"start: text? ({_CALLS} text?)*", *TEXT_RULES, 'calls: "[" call (", " call)* "]"']

    def write_choice(self, tools: Sequence[Tool], answer: Constraint | None, *, parallel: bool) -> list[str]:
        """See `CallForm.write_choice`."""
        start = [f"start: ({_CALLS}) | text?", *TEXT_RULES] if answer is None else [f"start: ({_CALLS}) | answer"]
        return [*start, _write_list(parallel=parallel)]


def _write_list(*, parallel: bool) -> str:
    further = write_repeats('", "', parallel=parallel)
    return f'calls: "[" call{further} "]"'


FORM = Phi4CallForm()


def build_forced_calls(tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """See `call_rules.build_forced_calls`."""
    return call_rules.build_forced_calls(FORM, tools, parallel=parallel)


def build_guided_calls(tools: tuple[Tool, ...]) -> Grammar:
    """See `call_rules.build_guided_calls`."""
    return call_rules.build_guided_calls(FORM, tools)


def build_calls_or_answer(answer: Constraint | None, tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """See `call_rules.build_calls_or_answer`."""
    return call_rules.build_calls_or_answer(FORM, answer, tools, parallel=parallel)
