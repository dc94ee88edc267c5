"""Tries a model's chat template on small conversations when the model is loaded, so that its faults show before any request."""

from contextlib import suppress

from serve_app.chat.formats.jinja.renderer import Renderer
from serve_app.chat.formats.jinja.split import ControlSplitter
from serve_app.chat.formats.jinja.template import CannotRender
from serve_app.chat.formats.jinja.variables import CallEncoding
from serve_app.conversation import Chat, Ending, Message, Tool, ToolCall
from serve_app.errors import ModelUnusable

_SYSTEM, _USER = Message(role="system", content="Be brief."), Message(role="user", content="How warm is it?")
_ANSWER, _AGAIN = Message(role="assistant", content="It is warm."), Message(role="user", content="And now?")
_CALL = Message(role="assistant", tool_calls=(ToolCall(name="look", arguments='{"place": "here"}', id="call_0123456789abcdef"),))
_RESULT = Message(role="tool", content="20 degrees")
_TOOL = Tool(
    name="look",
    function='{"name": "look", "description": "Looks.", "parameters": '
    '{"type": "object", "properties": {"place": {"type": "string"}}}}',
)
_PLAIN = (
    Chat(messages=(_USER,)),
    Chat(messages=(_SYSTEM, _USER)),
    Chat(messages=(_USER, _ANSWER, _AGAIN)),
    Chat(messages=(_SYSTEM, _USER, _ANSWER), ending=Ending.CLOSED),
    Chat(messages=(_USER, _ANSWER), ending=Ending.CONTINUED),
)
_WITH_TOOLS = (
    Chat(messages=(_USER,), tools=(_TOOL,)),
    Chat(messages=(_SYSTEM, _USER), tools=(_TOOL,)),
    Chat(messages=(_USER, _CALL, _RESULT), tools=(_TOOL,)),
)


def probe(renderer: Renderer, splitter: ControlSplitter, file: str) -> None:
    """Choose `Renderer.call_encoding`; raise `ModelUnusable` for a template that renders no plain conversation.

    Also raises it where a control token of a prompt would have to be made of text that a client can write: it is then encoded as
    text, and the prompt is not the one that the model was trained on.
    """
    refusals: list[CannotRender] = []
    for chat in _PLAIN:
        try:
            _require_own_tokens(renderer.render(chat), splitter, file)
        except CannotRender as error:
            refusals.append(error)
            if not error.refused or len(refusals) == len(_PLAIN):
                raise ModelUnusable(f"{file}: the chat template cannot be run: {error.message}") from error
    renderer.call_encoding = _choose_call_encoding(renderer)
    for chat in _WITH_TOOLS:
        with suppress(CannotRender):
            _require_own_tokens(renderer.render(chat), splitter, file)


def _require_own_tokens(text: str, splitter: ControlSplitter, file: str) -> None:
    spelled, written = splitter.find_names("".join((text,))), splitter.find_names(text)
    if spelled != written:
        lost = next((name for name in spelled if spelled.count(name) != written.count(name)), spelled[0])
        raise ModelUnusable(
            f"{file}: the chat template makes the control token {lost} of text that clients can write, so that clients could write "
            "it too; such templates cannot be served"
        )


def _choose_call_encoding(renderer: Renderer) -> CallEncoding:
    """Return the first encoding of tool calls that the template takes; the default where it takes none."""
    default = renderer.call_encoding
    for encoding in (
        CallEncoding(),
        CallEncoding(short_ids=True),
        CallEncoding(text_arguments=True),
        CallEncoding(short_ids=True, text_arguments=True),
    ):
        renderer.call_encoding = encoding
        with suppress(CannotRender):
            renderer.render(_WITH_TOOLS[-1])
            return encoding
    return default
