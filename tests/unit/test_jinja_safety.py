"""A client's text never becomes a control token, whatever a template does with it, and renders to the same text as elsewhere."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from serve_app.chat.formats.jinja.format import JinjaFormat
from serve_app.chat.formats.jinja.renderer import Renderer
from serve_app.chat.formats.jinja.source import TemplateSource
from serve_app.chat.formats.jinja.tracked_text import find_origins
from serve_app.conversation import Chat, Ending, Message, Tool, ToolCall
from serve_app.errors import ModelUnusable
from serve_app.types import InvalidValue
from tests.unit.templated_models import FAMILIES, TEMPLATES, Model, build_with, load_model, write_model
from tests.unit.test_jinja_format import ID, NAMES, assistant, chats, render_reference, system, user


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    return {name: load_model(FAMILIES[name], write_model(FAMILIES[name], tmp_path_factory.mktemp(name))) for name in NAMES}


def disarm(text: str) -> str:
    """The text with letters in place of the characters of which control tokens consist; JSON stays JSON."""
    return re.sub(r"[<>|\[\]/_]|(?<=x)\w", "x", text)


def disarm_json(text: str) -> str:
    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return disarm(value)
        if isinstance(value, dict):
            return {f"{disarm(key)}{at}": walk(part) for at, (key, part) in enumerate(value.items())}
        return [walk(part) for part in value] if isinstance(value, list) else value

    return json.dumps(walk(json.loads(text)))


def disarm_chat(chat: Chat) -> Chat:
    messages = tuple(
        Message(
            role=message.role,
            content=disarm(message.content),
            tool_calls=tuple(
                ToolCall(name=disarm(call.name), arguments=disarm_json(call.arguments), id=call.id) for call in message.tool_calls
            ),
        )
        for message in chat.messages
    )
    tools = tuple(Tool(name="x", function=json.dumps(disarm_function(json.loads(tool.function)))) for tool in chat.tools)
    return replace(chat, messages=messages, tools=tools)


def disarm_function(function: dict[str, Any]) -> dict[str, Any]:
    return {key: json.loads(disarm_json(json.dumps(value))) for key, value in function.items()}


def fails(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


async def check_safe(model: Model, chat: Chat) -> None:
    """The control tokens are those of the harmless conversation of the same form, and the text is that of `transformers`."""
    try:
        ids = await model.format.render(chat)
    except InvalidValue:
        assert fails(lambda: render_reference(model, chat, tokenize=False))
        return
    assert model.control_ids(ids) == model.control_ids(await model.format.render(disarm_chat(chat)))
    if not model.family.flags:
        text = b"".join(map(model.tokenizer.raw, ids)).decode()
        normalizer = model.family.normalizer
        expected = render_reference(model, chat, tokenize=False)
        assert text == expected or (normalizer and normalizer.normalize_str(text) == normalizer.normalize_str(expected))


def hostile_chats(text: str) -> list[Chat]:
    function = {"name": text, "description": text, "parameters": {"type": "object", "properties": {text: {"enum": [text, [text]]}}}}
    call = ToolCall(name=text, arguments=json.dumps({text: text, "n": {"a": [text]}}), id=ID)
    return [
        Chat(messages=(system(text), user(text), assistant(text), user(text))),
        Chat(messages=(user("a" + text), assistant(text + "a"), user(f" {text} \n"))),
        Chat(messages=(user(text),), tools=(Tool(name="x", function=json.dumps(function)),)),
        Chat(messages=(user(text), Message(role="assistant", tool_calls=(call,)), Message(role="tool", content=text))),
        Chat(messages=(user(text), assistant(text)), ending=Ending.CONTINUED),
    ]


@pytest.mark.parametrize("name", NAMES)
async def test_no_spelling_of_a_control_token_becomes_one(models: dict[str, Model], name: str) -> None:
    model = models[name]
    for token in model.control:
        middle = len(token) // 2
        for text in (token, token * 2, token[:middle] + token + token[middle:], f" {token} ", token[1:], token[:-1], token.upper()):
            for chat in hostile_chats(text):
                await check_safe(model, chat)


@pytest.mark.parametrize("name", NAMES)
async def test_tokens_split_over_the_edges_of_texts(models: dict[str, Model], name: str) -> None:
    model = models[name]
    for token in model.control:
        for cut in range(1, len(token)):
            head, tail = token[:cut], token[cut:]
            await check_safe(model, Chat(messages=(system(head), user(tail), assistant(head), user(tail))))
            function = {"name": head, "description": tail, "parameters": {}}
            await check_safe(model, Chat(messages=(user(tail),), tools=(Tool(name="x", function=json.dumps(function)),)))


@pytest.mark.parametrize("name", NAMES)
async def test_no_text_becomes_a_control_token(models: dict[str, Model], name: str) -> None:
    model = models[name]
    pieces = sorted(
        {token[:at] for token in model.control for at in range(len(token) + 1)} | {token[1:] for token in model.control}
    )
    texts = st.lists(st.sampled_from(pieces) | st.text(max_size=2), max_size=5).map("".join)
    found: list[Chat] = []

    @settings(max_examples=80, database=None, derandomize=True, deadline=None)
    @given(chats(texts.filter(lambda text: not any(0xD800 <= ord(char) < 0xE000 for char in text))))
    def collect(chat: Chat) -> None:
        found.append(chat)

    collect()
    for chat in found:
        await check_safe(model, chat)


OPERATIONS = (TEMPLATES / "operations.txt").read_text().splitlines()
"""Expressions over a content X."""


def refuses(template: str, text: str) -> bool:
    """Whether Jinja itself cannot run a template."""
    return fails(lambda: render_jinja_template([[{"role": "user", "content": text}]], chat_template=template))


def render_both(template: str, contents: tuple[str, ...]) -> tuple[str, str]:
    """The text of a template here, and by `transformers`."""
    renderer = Renderer(TemplateSource("f", template, template), {})
    messages = tuple(map(user, contents))
    [[expected], _] = render_jinja_template([[{"role": "user", "content": text} for text in contents]], chat_template=template)
    return renderer.render(Chat(messages=messages, ending=Ending.CLOSED)), expected


TEXTS = ("<|im_end|>", " <|im_start|>\n", "im_end", "|im_end|", "<", "a\tb\n\n c ", "Straße ŉ", "x" * 30, "%d {} \\ \"'&", "")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_operations_on_text_give_what_jinja_gives_and_no_control_token(operation: str) -> None:
    expression = operation.replace("X", "m.content")
    template = "{% macro f(x) %}<{{ x }}>{% endmacro %}{% for m in messages %}{{ " + expression + " }};{% endfor %}"
    made = build_with(template)
    for text in TEXTS:
        try:
            ours, expected = render_both(template, (text,))
        except Exception:
            assert refuses(template, text), f"only our Jinja refuses {text!r}"
            continue
        assert ours == expected
        ids = await made.render(Chat(messages=(user(text),)))
        assert not set(ids) & made._tokenizer.vocabulary.control_ids, (operation, text)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|{{ m.content }}|>{% endfor %}",
        "{% for m in messages %}<|im_{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}|im_end|>{% endfor %}",
        "{% for m in messages %}{% set x %}<{{ m.content }}>{% endset %}{{ x }}{% endfor %}",
        "{% for m in messages %}{% set x | upper %}<{{ m.content }}>{% endset %}{{ x | lower }}{% endfor %}",
        "{% for m in messages %}{% filter trim %} <{{ m.content }}> {% endfilter %}{% endfor %}",
        "{% macro f(x) %}<|{{ x }}|>{{ caller() }}{% endmacro %}{% for m in messages %}"
        "{% call f(m.content) %}<|{{ m.content }}|>{% endcall %}{% endfor %}",
        "{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t ~ '<' ~ m.content %}{% endfor %}{{ ns.t }}>",
        "{% for m in messages %}{% generation %}<{{ m.content }}>{% endgeneration %}{% endfor %}",
        "{{ messages }}{{ messages|tojson }}{{ messages[0] }}{{ messages|string }}",
        "{% for k, v in messages[0].items() %}{{ k }}{{ v }}{% endfor %}",
        "{% for x in [messages[0].content] recursive %}{{ x }}{% if loop.depth < 2 %}{{ loop([x]) }}{% endif %}{% endfor %}",
        "{% set a, b = messages[0].content[:2] ~ 'ab' and ('<|', messages[0].content) %}{{ a }}{{ b }}|>",
        "{% with x = messages[0].content %}{{ x[0:5] }}{{ x[5:] }}{% endwith %}",
    ],
)
async def test_no_control_token_is_half_a_clients(template: str) -> None:
    made = build_with(template)
    for text in (
        "im_end",
        "im_start",
        "end|>",
        "start|>",
        "<",
        "<|im_end|>",
        "|im_end|",
        "<|im_end",
        "<|IM_END|>",
        "|im_end|><|im_start|",
    ):
        ids = await made.render(Chat(messages=(user(text),)))
        assert not set(ids) & made._tokenizer.vocabulary.control_ids, text
        ours, expected = render_both(template, (text,))
        assert ours == expected


ESCAPING = ("X|safe", "X|e", "X|escape", "X|forceescape")
"""Jinja's results of these are of a class that escapes what is added to them; here they are plain text."""
STEPS = tuple(each for each in OPERATIONS if "strftime" not in each and "X if" not in each and each not in ESCAPING)


@settings(max_examples=300, database=None, derandomize=True, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), min_size=1, max_size=4),
    st.lists(st.sampled_from(("<|im_end|>", "<", "im_end", "|>", " ", "a", "\n")), max_size=4).map("".join),
)
def test_chains_of_operations_keep_to_jinja_and_to_the_origin_of_each_character(steps: list[str], content: str) -> None:
    expression = "m.content"
    for step in steps:
        expression = step.replace("X", f"({expression})")
    template = "{% macro f(x) %}[{{ x }}]{% endmacro %}{% for m in messages %}{{ " + expression + " }}{% endfor %}"
    try:
        [[expected], _] = render_jinja_template([[{"role": "user", "content": content}]], chat_template=template)
    except Exception:
        return
    text = Renderer(TemplateSource("f", template, template), {}).render(Chat(messages=(user(content),), ending=Ending.CLOSED))
    assert text == expected
    assert len(find_origins(text)) == len(text)
    own = "".join(char if origin == 0 else "\0" for char, origin in zip(str.__str__(text), find_origins(text), strict=True))
    assert "im_" not in own
    assert "IM_" not in own.upper()


def test_a_template_that_makes_control_tokens_of_contents_is_refused() -> None:
    build_with("{% for m in messages %}{{ '<|im_%s|>'|truncate(30)|format('start') }}{% endfor %}")  # all is the template's own
    with pytest.raises(ModelUnusable, match=r"<\|im_start\|> of text that clients can write"):
        build_with("{% for m in messages %}{{ ({'a': m.content ~ '<|im_start|>'}|string) }}{% endfor %}")


async def test_a_role_is_a_template_s_word_and_any_other_a_clients(models: dict[str, Model]) -> None:
    model = models["phi4mini"]
    ids = await model.format.render(Chat(messages=(Message(role="user", content="x"),)))
    assert ids[0] == model.tokenizer.token_id("<|user|>")
    ids = await model.format.render(Chat(messages=(Message(role="/tool", content="x"),)))
    assert model.tokenizer.token_id("<|/tool|>") not in ids


def test_the_format_needs_no_transformers(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_model(FAMILIES["chatml"], tmp_path)
    code = (
        "import sys, pathlib; from serve_app.chat.tokenizer import Tokenizer; "
        "from serve_app.chat.formats.registry import build_format; "
        f"p = pathlib.Path({str(tmp_path)!r}); build_format(Tokenizer.load(p), p); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_jinja_format_is_a_chat_format() -> None:
    from serve_app.chat.formats.base import ChatFormat

    made: ChatFormat = build_with("{{ messages[0].content }}")
    assert isinstance(made, JinjaFormat)
