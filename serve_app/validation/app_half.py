"""Checks the application's half of the configuration, `args`, by its settings' own rules: every mistake with its line. Pure."""

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from serve_app.config import AppSettings
from serve_app.validation.findings import Finding, Place, show_value, suggest
from serve_app.validation.text import Document

_PATH_IN_MESSAGE = re.compile(r"^(?:Value error, )?([A-Za-z_][\w.-]*(?:\.[\w-]+)*)[:. ]")
_PREFIX = "Value error, "


def parse_args(document: Document, place: Place, args: Any) -> tuple[AppSettings | None, list[Finding]]:
    """Return the settings of `args`, None where they are wrong, and the mistakes."""
    try:
        return AppSettings.model_validate(args), []
    except ValidationError as error:
        found = [_translate(document, place, args, each) for each in error.errors(include_url=False)]
        return None, list(dict.fromkeys(found))


def _translate(document: Document, root: Place, args: Any, fault: Any) -> Finding:
    """Return pydantic's fault as a finding."""
    place = _follow(args, fault["loc"])
    message = fault["msg"].removeprefix(_PREFIX)
    if fault["type"] == "extra_forbidden":
        name = str(place[-1])
        known = _list_fields(args, place[:-1])
        return document.report((*root, *place), f"unknown key '{name}'", suggest(name, known) if known else "remove it")
    if fault["type"] == "union_tag_invalid":
        kinds = [kind.strip(" '") for kind in fault["ctx"]["expected_tags"].split(",")]
        kind = str(fault["ctx"]["tag"])
        return document.report(
            (*root, *place, "kind"), f"unknown kind '{kind}'", suggest(kind, [_drop_class(each) for each in kinds])
        )
    if fault["type"] == "union_tag_not_found":
        return document.report((*root, *place), "it has no kind", "write kind: vllm, onnx, llama_cpp, onnx_encoder or fake")
    if not place and (named := _PATH_IN_MESSAGE.match(fault["msg"].removeprefix(_PREFIX))):
        place = _find_named(args, tuple(named[1].split(".")))
    value = fault.get("input")
    shown = "" if isinstance(value, dict | list) or value is None else f", and is {show_value(value)}"
    return document.report((*root, *place), f"{message}{shown}")


def _drop_class(tag: str) -> str:
    """Return the value of an enumeration's member as pydantic shows it: <EngineKind.VLLM: 'vllm'>."""
    found = re.search(r"'([^']+)'?$", tag.rstrip(">"))
    return found[1] if found else tag


def _follow(args: Any, location: tuple[str | int, ...]) -> Place:
    """Return pydantic's location without the tags of unions, which are no keys of the file."""
    place: list[str | int] = []
    value: Any = args
    for at, part in enumerate(location):
        inner = _step(value, part)
        if inner is not None:
            place.append(part)
            value = inner
        elif at == len(location) - 1:
            place.append(str(part))
    return tuple(place)


def _find_named(args: Any, names: tuple[str, ...]) -> Place:
    """Return as much of the path that a message names as is there."""
    place: list[str | int] = []
    value = args
    for name in names:
        if not isinstance(value, dict) or name not in value:
            break
        place.append(name)
        value = value[name]
    return tuple(place)


def _list_fields(args: Any, place: Place) -> list[str]:
    """Return the keys that may stand at a place."""
    model: type[BaseModel] | None = AppSettings
    choices: list[type[BaseModel]] = []
    value = args
    for part in place:
        value = _step(value, part)
        field = None if model is None else model.model_fields.get(str(part))
        if field is not None:
            choices = list(_list_models(field.annotation))
            model = choices[0] if choices else None
        elif isinstance(value, dict) and "kind" in value:  # the part is a name that the operator chose, such as a group's
            model = next((each for each in choices if _has_kind(each, value["kind"])), model)
    return [] if model is None else [each.alias or name for name, each in model.model_fields.items()]


def _step(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def _has_kind(model: type[BaseModel], kind: str) -> bool:
    field = model.model_fields.get("kind")
    return field is not None and kind in map(str, get_args(field.annotation))


def _list_models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings classes within a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _list_models(inner)
