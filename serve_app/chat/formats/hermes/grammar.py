"""The grammars of calls between `<tool_call>` and `</tool_call>`, which are control tokens or text, anywhere in a text.

A block has one call, as the models' templates write it, or a list of calls, as SmolLM2 was taught to.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.chat.formats.call_rules import TEXT_RULES, CallForm, write_repeats
from serve_app.chat.formats.hermes.tokens import CALL_BEGIN, CALL_END
from serve_app.chat.lark import quote_literal
from serve_app.conversation import Tool
from serve_app.types import Constraint

_SPELLED_TEXT_RULES = (
    f"segment[lazy]: SEGMENT\nSEGMENT: /(.|\\n)*/ {quote_literal(CALL_BEGIN)}",
    f"text: TEXT\nTEXT: /(.|\\n)+/ & ~(/(.|\\n)*/ {quote_literal(CALL_BEGIN)} /(.|\\n)*/)",
)
"""Rules of text that ends with its first spelled marker, and of text without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HermesCallForm(CallForm):
    """See `CallForm`."""

    begin_is_token: bool
    end_is_token: bool

    def begin_call(self, name: str) -> tuple[str, ...]:
        """See `CallForm.begin_call`."""
        return (f'{{"name": {json.dumps(name)}, "arguments": ',)

    def write_forced(self, *, parallel: bool) -> list[str]:
        """See `CallForm.write_forced`."""
        return ["start: calls", *self._write_blocks(parallel=parallel)]

    def write_guided(self, tools: Sequence[Tool]) -> list[str]:
        """See `CallForm.write_guided`."""
        if self.begin_is_token:
            return ["start: text? (block text?)*", *TEXT_RULES, *self._write_block(parallel=True)]
        return ["start: (segment body)* text?", *_SPELLED_TEXT_RULES, *self._write_block(parallel=True)]

    def write_choice(self, tools: Sequence[Tool], answer: Constraint | None, *, parallel: bool) -> list[str]:
        """See `CallForm.write_choice`; text may stand before the call where no form of the answer is wanted."""
        if answer is not None:
            return ["start: calls | answer", *self._write_blocks(parallel=parallel)]
        if self.begin_is_token:
            return ["start: text? block?", *TEXT_RULES, *self._write_block(parallel=parallel)]
        return ["start: segment body | text?", *_SPELLED_TEXT_RULES, *self._write_block(parallel=parallel)]

    def _write_blocks(self, *, parallel: bool) -> list[str]:
        more = write_repeats('"\\n"', parallel=parallel, rule="block")
        return [f"calls: block{more}", *self._write_block(parallel=parallel)]

    def _write_block(self, *, parallel: bool) -> list[str]:
        begin = CALL_BEGIN if self.begin_is_token else quote_literal(CALL_BEGIN)
        end = CALL_END if self.end_is_token else quote_literal(CALL_END)
        more = write_repeats('"," SPACE?', parallel=parallel)
        return [
            f"block: {begin} body",
            f'body: "\\n"? (call | "[" SPACE? call{more} SPACE? "]") "\\n"? {end}',
            "SPACE: /[ \\n]/",
        ]
