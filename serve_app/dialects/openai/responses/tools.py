"""Decodes the tools and the form of the answer of the Responses API. Pure."""

from serve_app.chat.constraint import ANY_OBJECT, parse_schema, parse_tools
from serve_app.conversation import AnswerForm, Tool
from serve_app.dialects.openai.constraints import decode_choice
from serve_app.dialects.openai.responses.wire import CountBody, Format, NamedChoice, OfferedTool
from serve_app.dialects.openai.wire import NamedFunction
from serve_app.errors import Unsupported
from serve_app.faults import client_faults
from serve_app.types import Constraint, InvalidValue


def decode_tools(body: CountBody) -> tuple[tuple[Tool, ...], AnswerForm]:
    """Return the tools to offer and the form of the answer; raises `InvalidRequest` or `Unsupported` naming the field.

    Tools that only OpenAI's servers run are left out beside functions, since agents send some with every request; alone they are
    refused.
    """
    offered = body.tools or []
    functions = [tool for tool in offered if tool.type == "function"]
    if offered and not functions:
        names = ", ".join(sorted({tool.type[:40] for tool in offered}))
        raise Unsupported(f"tools: {names} cannot be run here; offer tools of the type function", param="tools")
    with client_faults():
        tools = parse_tools([_show_function(tool) for tool in functions])
        choice = None if body.tool_choice == "auto" and not tools else body.tool_choice  # Codex sends it always
        if isinstance(choice, NamedChoice) and choice.type == "function" and choice.function is None and choice.name:
            choice = choice.model_copy(update={"function": NamedFunction(name=choice.name)})
        return decode_choice(tools, choice, body.parallel_tool_calls, _decode_format(body.text.format if body.text else None))


def _show_function(tool: OfferedTool) -> dict[str, object]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}


def _decode_format(given: Format | None) -> Constraint | None:
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return ANY_OBJECT
    if given.schema_ is None:
        raise InvalidValue("text.format", "must have a schema")
    return parse_schema(given.schema_, "text.format.schema", lenient=not given.strict)
