"""Decodes `/api/create`, structured or as a Modelfile's text, into changes to a model. Pure."""

from typing import Any

from serve_app import parameters as ollama
from serve_app.chat import go_template
from serve_app.dialects.ollama import modelfile
from serve_app.dialects.ollama.wire import ChatMessage, CreateBody
from serve_app.errors import InvalidRequest, Unsupported
from serve_app.types import InvalidValue


def decode(body: CreateBody) -> tuple[str, dict[str, Any]]:
    """Return the parent's name and the changes to it, by `VariantSettings` field; raises `InvalidRequest` or `Unsupported`.

    Fields of the body win over the same ones in its `modelfile`.
    """
    for field, why in _REFUSED.items():
        if getattr(body, field):
            raise Unsupported(f"{field} is not served: {why}", param=field)
    text = modelfile.parse(body.modelfile) if body.modelfile is not None else None
    parent = body.from_ or (text.base if text else "")
    if not parent:
        raise InvalidRequest("from is required: name a served model to derive from", param="from")
    changes: dict[str, Any] = {} if text is None else _read_modelfile(text)
    changes |= _read_body(body)
    if changes.get("template") is not None:
        _require_template(changes["template"])
    return parent, changes


_REFUSED = {
    "files": "weights are the operator's configuration; give from, the name of a served model",
    "adapters": "weights are the operator's configuration",
    "quantize": "the engine groups' precision is the operator's configuration",
    "renderer": "prompts are rendered by the model's own template, or by template",
    "parser": "answers are parsed the model's own way",
    "path": "send the Modelfile's text as modelfile",
}


def _read_modelfile(text: modelfile.Modelfile) -> dict[str, Any]:
    return {
        "system": text.system,
        "template": text.template,
        "parameters": text.parameters,
        "messages": [{"role": role, "content": content} for role, content in text.messages] or None,
        "license": tuple(text.license) or None,
        "task": text.task,
    }


def _read_body(body: CreateBody) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if body.system is not None:
        changes["system"] = body.system
    if body.template is not None:
        changes["template"] = body.template
    if body.license:
        changes["license"] = (body.license,) if isinstance(body.license, str) else tuple(body.license)
    if body.messages:
        changes["messages"] = [_read_message(at, message) for at, message in enumerate(body.messages)]
    if body.parameters:
        given = {name: value for name, value in body.parameters.items() if value is not None}
        try:
            if modelfile.TASK in given:
                changes["task"] = modelfile.parse_task(given.pop(modelfile.TASK))
            changes["parameters"] = {name: ollama.check_parameter(name, value) for name, value in given.items()}
            ollama.require_usable(changes["parameters"])
        except InvalidValue as error:
            raise InvalidRequest(f'parameter "{error.field[:100]}" {error.fault}', param="parameters") from error
    return changes


def _read_message(at: int, message: ChatMessage) -> dict[str, str]:
    if message.role not in modelfile.ROLES or message.tool_calls or message.images:
        raise InvalidRequest(f"messages.{at}: must be a text of {', '.join(modelfile.ROLES)}", param=f"messages.{at}")
    return {"role": message.role, "content": message.content or ""}


def _require_template(text: str) -> None:
    try:
        go_template.parse(text)
    except InvalidValue as error:
        raise InvalidRequest(str(error), param="template") from error
