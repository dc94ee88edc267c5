"""Writes objects as YAML text: long strings as blocks, no anchors, keys in the given order."""

from collections.abc import Iterable
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper with readable output."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal objects in full each time."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists under their key."""
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represent_text)


def dump(value: Any) -> str:
    """Return one YAML document."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=132, allow_unicode=True)


def dump_all(values: Iterable[Any]) -> str:
    """Return a stream of YAML documents."""
    return "---\n".join(map(dump, values))
