"""Reads and writes Modelfiles: text to instructions and back. Pure; knows no catalog.

Grammar (Ollama's): one instruction a line, `KEYWORD value`, keywords in any case and order; `#` at the start of a line is a
comment. A value that begins with three quotes or one runs to the closing ones, over lines if need be. `PARAMETER stop`, MESSAGE and
LICENSE add up; of everything else the last one counts.
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
"""Our own parameter: the task that a variant's requests count as."""
_WORD = re.compile(r"(\S+)[ \t]*(.*)", re.DOTALL)
_VERSION = re.compile(r"v?\d{1,6}(\.\d{1,6}){0,2}([-+][0-9A-Za-z.-]{1,40})?")
_LONG, _SHORT = '"""', '"'


@dataclass(slots=True, kw_only=True)
class Modelfile:
    """What a Modelfile says; the line numbers are where."""

    base: str
    """What FROM names."""
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
    """Return what `text` says; raises `InvalidRequest` with the number of the first line that is wrong."""
    found = Modelfile(base="")
    for instruction in _instructions(text):
        _take(found, instruction)
    if not found.base:
        raise InvalidRequest("Modelfile: no FROM line; begin with FROM and the name of a served model", param="modelfile")
    return found


def task_of(value: object) -> Task:
    """Return the task that `value` names; raises `InvalidValue`."""
    if not isinstance(value, str) or value not in set(Task):
        raise InvalidValue(TASK, f"must be one of {', '.join(Task)}")
    return Task(value)


def write(base: str, *, system: str, template: str, messages: Sequence[tuple[str, str]], parameters: Mapping[str, Any]) -> str:
    """Return a Modelfile that says this; `parse` reads it back."""
    lines = [f"FROM {base}"]
    lines += [f"TEMPLATE {_quoted(template)}"] if template else []
    lines += [f"SYSTEM {_quoted(system)}"] if system else []
    lines += [f"PARAMETER {name} {value}" for name, value in ollama.write_values(parameters)]
    lines += [f"MESSAGE {role} {_quoted(content)}" for role, content in messages]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Quotes only where the bare text would read otherwise."""
    plain = text == text.strip() and "\n" not in text and not text.startswith(_SHORT)
    return text if plain and text else f"{_LONG}{text}{_LONG}"


def _take(found: Modelfile, instruction: _Instruction) -> None:
    value = instruction.value
    match instruction.keyword:
        case "FROM":
            found.base = value
        case "SYSTEM":
            found.system = value
        case "TEMPLATE":
            found.template = value
        case "LICENSE":
            found.license.append(value)
        case "PARAMETER":
            _take_parameter(found, instruction)
        case "MESSAGE":
            role = instruction.head.lower()
            if role not in ROLES:
                raise instruction.fault(f"MESSAGE takes a role, one of {', '.join(ROLES)}, and a text")
            found.messages.append((role, value))
        case "REQUIRES":
            if not _VERSION.fullmatch(value):
                raise instruction.fault("REQUIRES takes a version such as 0.12.0")
        case _:
            raise instruction.fault("ADAPTER is not served: the weights are the operator's configuration; leave the line out")


def _take_parameter(found: Modelfile, instruction: _Instruction) -> None:
    name, text = instruction.head.lower(), instruction.value
    try:
        if name == TASK:
            found.task = task_of(text)
        elif name == "stop":
            stops = [*found.parameters.get("stop", ()), text]
            found.parameters["stop"] = ollama.check_parameter("stop", stops)
        else:
            found.parameters[name] = ollama.parse_parameter(name, text)
            ollama.require_usable({name: found.parameters[name]})
    except InvalidValue as error:
        raise instruction.fault(f"PARAMETER {error.field[:100]} {error.fault}") from error


def _instructions(text: str) -> Iterator[_Instruction]:
    """Yield the instructions in order, quotes taken off; raises `InvalidRequest` where there is none to read."""
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
            raise place.fault(f"'{keyword[:40]}' is no instruction; those are {', '.join(KEYWORDS)}")
        head, rest = _lead(keyword, rest)
        rest, at = _value(place, rest, lines, at)
        if not rest and keyword not in ("SYSTEM", "TEMPLATE", "LICENSE"):
            raise place.fault(f"{keyword} needs {'a name and a value' if keyword == 'PARAMETER' else 'a value'}")
        yield _Instruction(number, keyword, head, rest)


def _lead(keyword: str, rest: str) -> tuple[str, str]:
    """Take off the word that stands before the value of PARAMETER and MESSAGE."""
    match = _WORD.fullmatch(rest) if keyword in ("PARAMETER", "MESSAGE") else None
    return (match[1], match[2]) if match else ("", rest)


def _value(place: _Instruction, rest: str, lines: list[str], at: int) -> tuple[str, int]:
    """Return the value that begins with `rest`, and the index of the next line to read."""
    quotes = next((quotes for quotes in (_LONG, _SHORT) if rest.lstrip().startswith(quotes)), None)
    if quotes is None:
        return rest.strip(), at
    parts = [rest.lstrip().removeprefix(quotes)]
    while (end := parts[-1].find(quotes) if quotes == _LONG else _closing(parts[-1])) < 0:
        if at >= len(lines):
            raise place.fault(f"{place.keyword}: the closing {quotes} is missing")
        parts.append(lines[at])
        at += 1
    if parts[-1][end + len(quotes) :].strip():
        raise place.fault(f"{place.keyword}: text after the closing {quotes}")
    parts[-1] = parts[-1][:end]
    return "\n".join(parts), at


def _closing(line: str) -> int:
    """A lone quote closes at the end of a line only, so that texts may have quotes inside."""
    stripped = line.rstrip()
    return len(stripped) - 1 if stripped.endswith(_SHORT) else -1
