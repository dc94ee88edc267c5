"""Ollama's prompt templates: the part of Go's text/template that prompts use, parsed strictly and run without side effects.

Supported: text; `{{ .System }} {{ .Prompt }} {{ .Response }} {{ .Tools }}`; `{{ range .Messages }}` with `.Role`, `.Content` and
`.ToolCalls` (in it `$.System` and so on); `{{ if }} {{ else if }} {{ else }} {{ end }}` with and, or, not, eq, ne over fields and
"strings"; `{{- -}}` and comments. Anything else is refused with its line. The template's own text may hold control tokens; the
value of a field may not, so no message can open a turn of another role. Pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from serve_app.conversation import Chat, Ending, Message
from serve_app.types import InvalidValue

MAX_CHARS = 64 << 10
_MAX_DEPTH = 16
_ACTION = re.compile(r"\{\{(-?)(.*?)(-?)\}\}", re.DOTALL)
_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(\$?\.[A-Za-z]\w*|\$?\.(?!\w))|([A-Za-z]+)|([()]))')
_FIELDS = frozenset({"System", "Prompt", "Response", "Tools", "Messages"})
_ITEM_FIELDS = frozenset({"Role", "Content", "ToolCalls"})
_FUNCTIONS = frozenset({"and", "or", "not", "eq", "ne"})
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}

Value: TypeAlias = "str | bool | Sequence[Mapping[str, str]]"


@dataclass(frozen=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, slots=True)
class _Insert:
    expression: "_Expression"


@dataclass(frozen=True, slots=True)
class _If:
    condition: "_Expression"
    then: "tuple[_Node, ...]"
    otherwise: "tuple[_Node, ...]"


@dataclass(frozen=True, slots=True)
class _Range:
    body: "tuple[_Node, ...]"
    otherwise: "tuple[_Node, ...]"


_Node: TypeAlias = _Text | _Insert | _If | _Range


@dataclass(frozen=True, slots=True)
class _Expression:
    """A field, a string, or a function over expressions."""

    head: str
    arguments: "tuple[_Expression, ...]" = ()
    literal: bool = False


RenderedPart: TypeAlias = tuple[str, bool]
"""A text, and whether control tokens in it count as such."""


@dataclass(frozen=True, slots=True)
class GoTemplate:
    """A parsed template."""

    nodes: tuple[_Node, ...]
    loops_over_messages: bool
    """Whether it iterates over the messages itself; other templates are executed once per exchange."""
    uses_response: bool

    def render(self, chat: Chat, tools: str, calls: Mapping[int, str]) -> list[RenderedPart]:
        """Return the prompt of `chat` up to the beginning of the answer, or to the end of the text that the answer continues.

        `tools` is the list of tools as text; `calls` maps the position of a message to its tool calls as text.
        """
        parts: list[RenderedPart] = []
        if self.loops_over_messages:
            system = "\n\n".join(message.content for message in chat.messages if _is_system(message))
            items = tuple(
                {"Role": message.role, "Content": message.content, "ToolCalls": calls.get(at, "")}
                for at, message in enumerate(chat.messages)
            )
            fields: dict[str, Value] = {"System": system, "Tools": tools, "Messages": items, "Prompt": "", "Response": ""}
            _execute(self.nodes, fields, {}, parts, until="messages" if chat.ending is Ending.CONTINUED else "")
            return parts
        exchanges = list(_split_exchanges(chat.messages))
        for at, (system, prompt, response) in enumerate(exchanges):
            fields = {"System": system, "Prompt": prompt, "Response": response, "Messages": ()}
            fields["Tools"] = tools if at == 0 else ""
            last = at == len(exchanges) - 1 and (not response or chat.ending is Ending.CONTINUED)
            _execute(self.nodes, fields, {}, parts, until="$.Response" if last else "")
            if not self.uses_response:
                _append(parts, response, control=False)
        return parts


def parse(text: str) -> GoTemplate:
    """Return the template in `text`; raises `InvalidValue` naming the line and the unsupported part."""
    if len(text) > MAX_CHARS:
        raise InvalidValue("template", f"may have {MAX_CHARS} characters")
    reader = _Reader(text)
    nodes, end = reader.read_block(0, in_range=False)
    if end:
        raise InvalidValue("template", f"line {reader.line}: '{end}' without its beginning")
    return GoTemplate(nodes, "Messages" in reader.used, "Response" in reader.used)


class _Reader:
    """Parses text and actions into nodes."""

    def __init__(self, text: str) -> None:
        self._split_actions = iter(_split_actions(text))
        self.line = 1
        self.used: set[str] = set()

    def read_block(self, depth: int, *, in_range: bool) -> tuple[tuple[_Node, ...], str]:
        """Return the nodes up to the `end` or `else` that belongs to the caller, and that action's text; '' at the end."""
        if depth > _MAX_DEPTH:
            raise self._fault(f"nested deeper than {_MAX_DEPTH}")
        nodes: list[_Node] = []
        for line, piece, is_action in self._split_actions:
            self.line = line
            if not is_action:
                nodes.append(_Text(piece))
                continue
            word, _, rest = piece.partition(" ")
            if word in ("end", "else"):
                return tuple(nodes), piece
            if word == "if":
                nodes.append(self._read_if(rest, depth, in_range))
            elif word == "range":
                nodes.append(self._read_range(rest, depth, in_range))
            elif piece:
                nodes.append(_Insert(self._read_expression(piece, in_range)))
        return tuple(nodes), ""

    def _read_if(self, condition: str, depth: int, in_range: bool) -> _If:
        tested = self._read_expression(condition, in_range)
        then, end = self.read_block(depth + 1, in_range=in_range)
        otherwise: tuple[_Node, ...] = ()
        word, _, rest = end.partition(" ")
        if word == "else" and rest.strip().startswith("if "):
            return _If(tested, then, (self._read_if(rest.strip()[3:], depth + 1, in_range),))
        if word == "else":
            otherwise, end = self.read_block(depth + 1, in_range=in_range)
        if end != "end":
            raise self._fault("an if without its end")
        return _If(tested, then, otherwise)

    def _read_range(self, over: str, depth: int, in_range: bool) -> _Range:
        if in_range or over.strip() not in (".Messages", "$.Messages"):
            raise self._fault("range goes over .Messages only, without variables")
        self.used.add("Messages")
        body, end = self.read_block(depth + 1, in_range=True)
        otherwise: tuple[_Node, ...] = ()
        if end == "else":
            otherwise, end = self.read_block(depth + 1, in_range=False)
        if end != "end":
            raise self._fault("a range without its end")
        return _Range(body, otherwise)

    def _read_expression(self, text: str, in_range: bool) -> _Expression:
        tokens, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._fault(f"'{text[at:].strip()[:40]}' is not served in templates")
            tokens.append(match[0].strip())
            at = match.end()
        expression, rest = self._read_call(tokens, in_range)
        if rest:
            raise self._fault(f"'{rest[0][:40]}' is not expected here")
        return expression

    def _read_call(self, tokens: list[str], in_range: bool) -> tuple[_Expression, list[str]]:
        """Return a function with its arguments, or a single operand."""
        if not tokens or tokens[0] not in _FUNCTIONS:
            return self._read_operand(tokens, in_range)
        name, rest, arguments = tokens[0], tokens[1:], []
        while rest and rest[0] != ")":
            argument, rest = self._read_operand(rest, in_range)
            arguments.append(argument)
        if len(arguments) < (1 if name in ("not", "and", "or") else 2) or (name == "not" and len(arguments) > 1):
            raise self._fault(f"{name} has too few or too many arguments")
        return _Expression(name, tuple(arguments)), rest

    def _read_operand(self, tokens: list[str], in_range: bool) -> tuple[_Expression, list[str]]:
        if not tokens:
            raise self._fault("an action without a value")
        token, rest = tokens[0], tokens[1:]
        if token == "(":
            inner, rest = self._read_call(rest, in_range)
            if not rest or rest[0] != ")":
                raise self._fault("a parenthesis is not closed")
            return inner, rest[1:]
        if token.startswith('"'):
            return _Expression(re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), token[1:-1]), literal=True), rest
        name = token.removeprefix("$").removeprefix(".")
        known = _ITEM_FIELDS if in_range and not token.startswith("$") else _FIELDS
        if not token.startswith(("$.", ".")) or name not in known:
            raise self._fault(f"'{token[:40]}' is not served in templates; fields here are .{', .'.join(sorted(known))}")
        self.used.add(name)
        return _Expression(token if in_range else f"$.{name}"), rest

    def _fault(self, what: str) -> InvalidValue:
        return InvalidValue("template", f"line {self.line}: {what}")


def _split_actions(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, text, whether it is an action), with white space trimmed at dashes and without comments."""
    at, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[at : match.start()]
        before = before.lstrip() if trim else before
        line = text.count("\n", 0, match.start()) + 1
        before = before.rstrip() if match[1] else before
        if before:
            yield line, before, False
        inner = match[2].strip()
        if not (inner.startswith("/*") and inner.endswith("*/")):
            yield line, " ".join(inner.split()) if '"' not in inner else inner, True
        at, trim = match.end(), bool(match[3])
    rest = text[at:].lstrip() if trim else text[at:]
    if "{{" in rest:
        raise InvalidValue("template", f"line {text.count(chr(10), 0, at) + 1}: an action is not closed")
    if rest:
        yield text.count("\n") + 1, rest, False


def _execute(
    nodes: tuple[_Node, ...], fields: Mapping[str, Value], item: Mapping[str, str], out: list[RenderedPart], *, until: str = ""
) -> bool:
    """Append the text of the nodes; return False where it stopped after `until`, the position of the answer.

    `until` is a field, or `messages` for the content of the last message.
    """
    for node in nodes:
        match node:
            case _Text(text):
                _append(out, text, control=True)
            case _Insert(expression):
                value = _evaluate(expression, fields, item)
                # A role is one of a few known words, so <|{{ .Role }}|> may become a control token.
                _append(out, value if isinstance(value, str) else str(bool(value)).lower(), control=expression.head == ".Role")
                if until and expression.head == until:
                    return False
            case _If(condition, then, otherwise):
                chosen = then if _evaluate(condition, fields, item) else otherwise
                # At the position of the answer `{{ if .Response }}` is true.
                chosen = then if until == condition.head == "$.Response" else chosen
                if not _execute(chosen, fields, item, out, until=until):
                    return False
            case _Range(body, otherwise):
                items = fields["Messages"]
                assert not isinstance(items, str | bool)
                for each in items:
                    last = until == "messages" and each is items[-1]
                    if not _execute(body, fields, each, out, until=".Content" if last else ""):
                        return False
                if not items:
                    _execute(otherwise, fields, {}, out)
    return True


def _append(out: list[RenderedPart], text: str, *, control: bool) -> None:
    """Append text to the last part where both are of one kind, since tokens may span them; otherwise as a new part."""
    if out and out[-1][1] is control:
        out[-1] = (out[-1][0] + text, control)
    elif text:
        out.append((text, control))


def _evaluate(expression: _Expression, fields: Mapping[str, Value], item: Mapping[str, str]) -> Value:
    if expression.literal:
        return expression.head
    if expression.head not in _FUNCTIONS:
        return fields[expression.head[2:]] if expression.head.startswith("$.") else item[expression.head[1:]]
    values = [_evaluate(argument, fields, item) for argument in expression.arguments]
    match expression.head:
        case "not":
            return not values[0]
        case "eq":
            return values[0] in values[1:]
        case "ne":
            return values[0] != values[1]
        case "and":
            return next((value for value in values if not value), values[-1])
        case _:
            return next((value for value in values if value), values[-1])


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _split_exchanges(messages: Sequence[Message]) -> Iterator[tuple[str, str, str]]:
    """Yield (system, prompt, response) per exchange; the last one has no response where the model is to answer."""
    system, prompt, response = "", "", ""
    for message in messages:
        if _is_system(message):
            if prompt or response:
                yield system, prompt, response
                system, prompt, response = "", "", ""
            system += ("\n\n" if system else "") + message.content
        elif message.role == "assistant":
            response += message.content
        else:
            if response:
                yield system, prompt, response
                system, prompt, response = "", "", ""
            prompt += ("\n\n" if prompt else "") + message.content
    yield system, prompt, response
