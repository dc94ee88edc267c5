"""Decodes the tools and the form of the answer of Anthropic's bodies. Pure."""

from serve_app.chat.constraint import parse_schema, parse_tools
from serve_app.conversation import AnswerForm, Tool, ToolChoice
from serve_app.dialects.anthropic import wire
from serve_app.errors import Unsupported
from serve_app.faults import client_faults
from serve_app.types import Constraint, InvalidValue


def decode_tools(body: wire.CountBody) -> tuple[tuple[Tool, ...], AnswerForm]:
    """Return the tools to offer and the form of the answer; raises `InvalidRequest` or `Unsupported` naming the field."""
    with client_faults():
        tools, choice, answer_format = _read_tools(body.tools or []), body.tool_choice, _decode_format(body)
        if choice is None or choice.type == "auto":
            return tools, AnswerForm(parallel=_is_parallel(choice), format=answer_format)
        if choice.type == "none":
            return (), AnswerForm(format=answer_format)
        if not tools:
            raise InvalidValue("tool_choice", "needs tools")
        if choice.type == "any":
            return tools, AnswerForm(tool_choice=ToolChoice.REQUIRED, parallel=_is_parallel(choice), format=answer_format)
        if choice.name not in {tool.name for tool in tools}:
            raise InvalidValue("tool_choice.name", "must be the name of an offered tool")
        return tools, AnswerForm(tool_choice=ToolChoice.REQUIRED, callable=(choice.name,), parallel=False, format=answer_format)


def _is_parallel(choice: wire.ToolChoice | None) -> bool:
    return choice is None or not choice.disable_parallel_tool_use


def _read_tools(offered: list[wire.OfferedTool]) -> tuple[Tool, ...]:
    for at, tool in enumerate(offered):
        if tool.type not in (None, "custom"):
            raise Unsupported(
                f"tools.{at}: '{tool.type[:40]}' is run by Anthropic's servers; offer custom tools",
                param=f"tools.{at}.type",
            )
    functions = [
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.input_schema,
            "strict": tool.strict,
        }
        for tool in offered
    ]
    return parse_tools(functions)


def _decode_format(body: wire.CountBody) -> Constraint | None:
    if not isinstance(body, wire.MessagesBody):
        return None
    given = body.output_config.format if body.output_config is not None and body.output_config.format else body.output_format
    return None if given is None else parse_schema(given.schema_, "output_config.format.schema")
