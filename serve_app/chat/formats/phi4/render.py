"""Renders a chat as Phi-4's prompt: `<|role|>content<|end|>` per message, then `<|assistant|>`, or as `Chat.ending` sets.

Tools stand in the system message as `<|tool|>[function, ...]<|/tool|>`; calls are written `<|tool_call|>[...]<|/tool_call|>` in the
assistant's turn and results as turns of the role `tool`. Control tokens are placed as ids and content is encoded with control
tokens off, so text of a user or a tool cannot open a turn of another role. Knows no engine and no dialect.
"""

from serve_app.chat.formats.custom_template import encode_opening, list_calls, list_tools, render_custom
from serve_app.chat.formats.phi4.tokens import CALLS_BEGIN, CALLS_END, ROLE_TOKENS, TEXT_END, TOOLS_BEGIN, TOOLS_END, TURN_END
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, Ending, Message

GO_TEMPLATE = (
    "{{- if and .Tools (not .System) }}<|system|><|tool|>{{ .Tools }}<|/tool|><|end|>{{ end }}\n"
    "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}\n"
    '{{- if and (eq .Role "system") $.Tools }}<|tool|>{{ $.Tools }}<|/tool|>{{ end }}\n'
    "{{- if .ToolCalls }}<|tool_call|>{{ .ToolCalls }}<|/tool_call|>{{ end }}<|end|>{{ end }}<|assistant|>"
)
"""The same prompt in Ollama's template language."""


class Phi4Template:
    """The renderer over one tokenizer; raises `KeyError` at construction when a control token is missing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Look up the control tokens once."""
        self._tokenizer = tokenizer
        self._role_ids = {role: tokenizer.token_id(token) for role, token in ROLE_TOKENS.items()}
        self._end = tokenizer.token_id(TURN_END)
        self._text_end = [tokenizer.vocabulary.added[token] for token in (TEXT_END,) if token in tokenizer.vocabulary.added]
        self._tools = tokenizer.token_id(TOOLS_BEGIN), tokenizer.token_id(TOOLS_END)
        self._calls = tokenizer.token_id(CALLS_BEGIN), tokenizer.token_id(CALLS_END)

    async def render(self, chat: Chat) -> tuple[int, ...]:
        """Return the prompt's token ids. `developer` is another name of `system`.

        Tools go into the first system message, or into one of their own before everything where there is none. A chat that
        continues token ids gets them first, with their last turn closed. A chat that ends closed gets the end-of-text token, as in
        the model's own template. Raises `InvalidValue` for a template that cannot be run, or cannot end as the chat wants.
        """
        before = [*chat.context, self._end] if chat.context else []
        if chat.template:
            return (*before, *await render_custom(self._tokenizer, chat), *await encode_opening(self._tokenizer, chat))
        messages = list(chat.messages)
        if chat.tools and not any(message.role in ("system", "developer") for message in messages):
            messages.insert(0, Message(role="system"))
        ids = before
        tools = chat.tools
        for message in messages:
            ids.append(self._role_ids[message.role])
            ids.extend(await self._tokenizer.encode_async(message.content, special=False))
            if tools and message.role in ("system", "developer"):
                ids.extend(await self._encode_between(self._tools, list_tools(tools)))
                tools = ()
            if message.tool_calls:
                ids.extend(await self._encode_between(self._calls, list_calls(message.tool_calls)))
            ids.append(self._end)
        if chat.ending is Ending.CONTINUED:
            ids.pop()
        else:
            ids.extend(self._text_end if chat.ending is Ending.CLOSED else [self._role_ids["assistant"]])
        return (*ids, *await encode_opening(self._tokenizer, chat))

    async def _encode_between(self, marks: tuple[int, int], text: str) -> list[int]:
        return [marks[0], *await self._tokenizer.encode_async(text, special=False), marks[1]]
