"""Reads YAML with the line of every key, and finds what a lenient reader passes over: tabs, duplicate keys. Pure."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from serve_app.validation.findings import Finding, Place, show_place


@dataclass(slots=True)
class Document:
    """A file's value and the lines of its keys and list items."""

    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    """Mistakes of the text itself."""

    def find_line(self, place: Place) -> int:
        """Return the line of a place, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def report(self, place: Place, problem: str, fix: str = "") -> Finding:
        """Return a finding at a place."""
        return Finding(line=self.find_line(place), place=show_place(place), problem=problem, fix=fix)


def read_document(text: str) -> Document:
    """Return a file's content; where it is not YAML, only the finding that says so."""
    document = Document()
    for number, line in enumerate(text.splitlines(), 1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            fix = "indent with spaces, as the lines around it"
            document.findings.append(Finding(line=number, place="", problem="the line is indented with a tab", fix=fix))
    if document.findings:
        return document
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document.value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        fix = "look at the indentation and the quotes of this line and the one before"
        at = 0 if mark is None else int(mark.line) + 1
        document.findings.append(Finding(line=at, place="", problem=f"not YAML: {problem}", fix=fix))
        return document
    try:
        if root is not None:
            _walk(root, (), document)
    except RecursionError:  # an anchor that contains itself, or brackets by the thousand
        document.value = None
        document.findings.append(Finding(line=1, place="", problem="the file contains itself, or is nested too deeply"))
    return document


def _walk(node: yaml.Node, place: Place, document: Document) -> None:
    document.lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            _walk(item, (*place, at), document)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            inner = (*place, name)
            if name in seen:
                problem = f"the key '{name}' stands here and in line {seen[name]}; only this one would count"
                document.findings.append(Finding(line=line, place=show_place(inner), problem=problem, fix="remove one of them"))
            seen[name] = line
            document.lines[inner] = line
            _walk(value, inner, document)
