"""Reads and writes Modelfiles. Pure; knows no catalog.

Grammar (Ollama's): one instruction a line, `KEYWORD value`, keywords in any case and order; `#` at the start of a line is a
comment. A value that begins with one or three quotes extends to the closing quotes, possibly over several lines. `PARAMETER stop`,
MESSAGE and LICENSE add up; of any other instruction the last one counts.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app import parameters as ollama
from serve_app.errors import InvalidRequest
from serve_app.types import InvalidValue, Task

KEYWORDS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
ROLES = ("system", "user", "assistant")
TASK = "task"
"""Our own parameter: the task of a variant's requests."""
_WORD = re.compile(r"(\S+)[ \t]*(.*)", re.DOTALL)
_VERSION = re.compile(r"v?\d{1,6}(\.\d{1,6}){0,2}([-+][0-9A-Za-z.-]{1,40})?")
_LONG, _SHORT = '"""', '"'


@dataclass(slots=True, kw_only=True)
class Modelfile:
    """The content of a Modelfile."""

    base: str
    """The model that FROM names."""
    system: str | None = None
    template: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)
    """(role, content), in order."""
    license: list[str] = field(default_factory=list)
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class _Instruction:
    line: int
    keyword: str
    head: str
    """The word before the value of PARAMETER and MESSAGE: the name, the role."""
    value: str

    def fault(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"Modelfile line {self.line}: {what}", param="modelfile")


def parse(text: str) -> Modelfile:
    """Return the content of a Modelfile's `text`; raises `InvalidRequest` with the number of the first wrong line."""
    modelfile = Modelfile(base="")
    for instruction in _read_instructions(text):
        _apply(modelfile, instruction)
    if not modelfile.base:
        raise InvalidRequest("Modelfile: no FROM line; begin with FROM and the name of a served model", param="modelfile")
    return modelfile


def parse_task(value: object) -> Task:
    """Return the task that `value` names; raises `InvalidValue`."""
    if not isinstance(value, str) or value not in set(Task):
        raise InvalidValue(TASK, f"must be one of {', '.join(Task)}")
    return Task(value)


def write(base: str, *, system: str, template: str, messages: Sequence[tuple[str, str]], parameters: Mapping[str, Any]) -> str:
    """Return the text of a Modelfile with this content; `parse` reads it back."""
    lines = [f"FROM {base}"]
    lines += [f"TEMPLATE {_quote(template)}"] if template else []
    lines += [f"SYSTEM {_quote(system)}"] if system else []
    lines += [f"PARAMETER {name} {value}" for name, value in ollama.write_values(parameters)]
    lines += [f"MESSAGE {role} {_quote(content)}" for role, content in messages]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    """Quote a text where `parse` would otherwise change it."""
    plain = text == text.strip() and "\n" not in text and not text.startswith(_SHORT)
    return text if plain and text else f"{_LONG}{text}{_LONG}"


def _apply(modelfile: Modelfile, instruction: _Instruction) -> None:
    value = instruction.value
    match instruction.keyword:
        case "FROM":
            modelfile.base = value
        case "SYSTEM":
            modelfile.system = value
        case "TEMPLATE":
            modelfile.template = value
        case "LICENSE":
            modelfile.license.append(value)
        case "PARAMETER":
            _apply_parameter(modelfile, instruction)
        case "MESSAGE":
            role = instruction.head.lower()
            if role not in ROLES:
                raise instruction.fault(f"MESSAGE takes a role, one of {', '.join(ROLES)}, and a text")
            modelfile.messages.append((role, value))
        case "REQUIRES":
            if not _VERSION.fullmatch(value):
                raise instruction.fault("REQUIRES takes a version such as 0.12.0")
        case _:
            raise instruction.fault("ADAPTER is not served: the weights are the operator's configuration; leave the line out")


def _apply_parameter(modelfile: Modelfile, instruction: _Instruction) -> None:
    name, text = instruction.head.lower(), instruction.value
    try:
        if name == TASK:
            modelfile.task = parse_task(text)
        elif name == "stop":
            stops = [*modelfile.parameters.get("stop", ()), text]
            modelfile.parameters["stop"] = ollama.check_parameter("stop", stops)
        else:
            modelfile.parameters[name] = ollama.parse_parameter(name, text)
            ollama.require_usable({name: modelfile.parameters[name]})
    except InvalidValue as error:
        raise instruction.fault(f"PARAMETER {error.field[:100]} {error.fault}") from error


def _read_instructions(text: str) -> Iterator[_Instruction]:
    """Yield the instructions in order, without quotes; raises `InvalidRequest` for a line that is no instruction."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        line, number = lines[at].strip(), at + 1
        at += 1
        if not line or line.startswith("#"):
            continue
        match = _WORD.fullmatch(lines[number - 1].lstrip())
        keyword, rest = (match[1].upper(), match[2]) if match else ("", "")
        place = _Instruction(number, keyword, "", "")
        if keyword not in KEYWORDS:
            raise place.fault(f"'{keyword[:40]}' is no instruction; instructions are {', '.join(KEYWORDS)}")
        head, rest = _split_lead(keyword, rest)
        rest, at = _read_value(place, rest, lines, at)
        if not rest and keyword not in ("SYSTEM", "TEMPLATE", "LICENSE"):
            raise place.fault(f"{keyword} needs {'a name and a value' if keyword == 'PARAMETER' else 'a value'}")
        yield _Instruction(number, keyword, head, rest)


def _split_lead(keyword: str, rest: str) -> tuple[str, str]:
    """Split off the word before the value of PARAMETER and MESSAGE."""
    match = _WORD.fullmatch(rest) if keyword in ("PARAMETER", "MESSAGE") else None
    return (match[1], match[2]) if match else ("", rest)


def _read_value(place: _Instruction, rest: str, lines: list[str], at: int) -> tuple[str, int]:
    """Return the value that begins with `rest`, and the index of the next line to read."""
    quotes = next((quotes for quotes in (_LONG, _SHORT) if rest.lstrip().startswith(quotes)), None)
    if quotes is None:
        return rest.strip(), at
    parts = [rest.lstrip().removeprefix(quotes)]
    while (end := parts[-1].find(quotes) if quotes == _LONG else _find_closing_quote(parts[-1])) < 0:
        if at >= len(lines):
            raise place.fault(f"{place.keyword}: the closing {quotes} is missing")
        parts.append(lines[at])
        at += 1
    if parts[-1][end + len(quotes) :].strip():
        raise place.fault(f"{place.keyword}: text after the closing {quotes}")
    parts[-1] = parts[-1][:end]
    return "\n".join(parts), at


def _find_closing_quote(line: str) -> int:
    """Return the index of a closing single quote: at the end of a line only, so that texts may have quotes inside. -1: none."""
    stripped = line.rstrip()
    return len(stripped) - 1 if stripped.endswith(_SHORT) else -1
