"""The chat format `jinja` against `transformers`: the same ids for harmless conversations, over five families of templates."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.conversation import Chat, Ending, Message, Tool, ToolCall
from serve_app.types import InvalidValue
from tests.unit.templated_models import FAMILIES, Model, load_model, write_model

NAMES = ("chatml", "llama3", "gemma", "mistral", "phi4mini", "qwen3")
TOOLS = (
    Tool(
        name="weather",
        function='{"name": "weather", "description": "The weather \\"now\\" in a place, é", "parameters": {"type": "object", '
        '"properties": {"place": {"type": "string"}, "days": {"type": "integer", "maximum": 7}}, "required": ["place"]}}',
    ),
    Tool(name="clock", function='{"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}'),
)
ID = "abcdef123"
CALL = Message(
    role="assistant", tool_calls=(ToolCall(name="weather", arguments='{"place": "Köln", "days": 2.0, "x": [null]}', id=ID),)
)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


CHATS = {
    "question": Chat(messages=(user("What is the answer?"),)),
    "system": Chat(messages=(system("Be brief."), user("Hi"))),
    "turns": Chat(messages=(system("Be brief."), user("Hi"), assistant("Hello!"), user("And now?"))),
    "edges": Chat(messages=(user("  \n spaced \t\n"), assistant("\n\nline\n"), user(" "))),
    "empty": Chat(messages=(system(""), user(""), assistant(""), user(""))),
    "unicode": Chat(
        messages=(user("Äpfel e\u0301 世界 🦙\u200d \ue000\uf8ff\U000f0000 \ufdd0 \u0338"), assistant("\u00a0x\u2028"), user("y"))
    ),
    "brackets": Chat(messages=(user("a < b | c > d [x] {{ y }} {% z %} <b>bold</b>"),)),
    "tools": Chat(messages=(system("S"), user("Hi")), tools=TOOLS),
    "tools without system": Chat(messages=(user("Hi"),), tools=TOOLS[:1]),
    "call": Chat(messages=(user("Hi"), CALL, Message(role="tool", content="20 °C")), tools=TOOLS),
    "call and answer": Chat(
        messages=(user("Hi"), CALL, Message(role="tool", content='{"t": 20}'), assistant("Warm."), user("Ok")), tools=TOOLS
    ),
    "closed": Chat(messages=(user("Hi"), assistant("Hello")), ending=Ending.CLOSED),
    "continued": Chat(messages=(user("Hi"), assistant("The answer is")), ending=Ending.CONTINUED),
    "continued with space": Chat(messages=(user("Hi"), assistant(" The answer is ")), ending=Ending.CONTINUED),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    return {name: load_model(FAMILIES[name], write_model(FAMILIES[name], tmp_path_factory.mktemp(name))) for name in NAMES}


def to_reference(chat: Chat) -> list[dict[str, Any]]:
    """The messages as a user of `transformers` writes them."""
    import json

    messages: list[dict[str, Any]] = []
    for message in chat.messages:
        fields: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            fields["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
                for call in message.tool_calls
            ]
        if message.role == "tool":
            fields |= {"name": "weather", "tool_call_id": ID}
        messages.append(fields)
    return messages


def render_reference(model: Model, chat: Chat, *, tokenize: bool = True) -> Any:
    import json

    tools = [{"type": "function", "function": json.loads(tool.function)} for tool in chat.tools] or None
    return model.reference.apply_chat_template(
        to_reference(chat),
        tools=tools,
        tokenize=tokenize,
        return_dict=False,
        add_generation_prompt=chat.ending is Ending.OPENED,
        continue_final_message=chat.ending is Ending.CONTINUED,
        **({} if chat.think is None else {"enable_thinking": chat.think}),
    )


async def check_equal(model: Model, chat: Chat) -> None:
    try:
        expected, refusal = tuple(render_reference(model, chat)), ""
    except Exception as error:
        expected, refusal = (), str(error) if type(error).__name__ == "TemplateError" else "chat template"
    if refusal:
        with pytest.raises(InvalidValue, match="chat template") as raised:
            await model.format.render(chat)
        assert refusal.rstrip(".") in raised.value.fault
    else:
        assert await model.format.render(chat) == expected


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", NAMES)
async def test_ids_are_those_of_transformers(models: dict[str, Model], name: str, chat: str) -> None:
    await check_equal(models[name], CHATS[chat])


HARMLESS = st.text(st.characters(exclude_characters="|[", exclude_categories=("Cs",)), max_size=12) | st.text(
    st.sampled_from(" \n\t<>/ab\u00a0\u2028\u0301\ue000'"), max_size=8
)


@st.composite
def chats(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> Chat:
    """Conversations that alternate, with tools and calls."""
    turns = [user(draw(texts))]
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            argument = draw(
                st.dictionaries(texts, texts | st.integers(-9, 9) | st.none() | st.lists(texts, max_size=2), max_size=2)
            )
            import json

            call = ToolCall(name=draw(texts), arguments=json.dumps(argument), id=ID)
            turns += [Message(role="assistant", tool_calls=(call,)), Message(role="tool", content=draw(texts))]
        turns += [assistant(draw(texts)), user(draw(texts))]
    if draw(st.booleans()):
        turns.insert(0, system(draw(texts)))
    tools = ()
    if draw(st.booleans()):
        import json

        function = {
            "name": draw(texts),
            "description": draw(texts),
            "parameters": {"type": "object", "properties": {draw(texts): {}}},
        }
        tools = (Tool(name="x", function=json.dumps(function)),)
    return Chat(messages=tuple(turns), tools=tools, think=draw(st.sampled_from((None, False, True))))


@pytest.mark.parametrize("name", NAMES)
async def test_ids_of_any_harmless_conversation_are_those_of_transformers(models: dict[str, Model], name: str) -> None:
    found: list[Chat] = []
    _collect(found, HARMLESS, 60)
    for chat in found:
        await check_equal(models[name], chat)


def _collect(found: list[Chat], texts: st.SearchStrategy[str], count: int) -> None:
    @settings(max_examples=count, database=None, derandomize=True, deadline=None)
    @given(chats(texts))
    def collect(chat: Chat) -> None:
        found.append(chat)

    collect()


async def test_a_byte_level_tokenizer_that_adds_spaces_and_tokens_that_take_them(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + ' : ' + m.content + ' <|im_end|> ' }}{% endfor %}"
    model = load_model(FAMILIES["spaced"], write_model(FAMILIES["spaced"], tmp_path, template))
    for chat in CHATS.values():
        if chat.ending is Ending.OPENED:
            await check_equal(model, chat)


async def test_a_chat_continues_token_ids_as_the_whole_conversation(models: dict[str, Model]) -> None:
    for name in ("chatml", "llama3", "mistral", "phi4mini"):
        model = models[name]
        context = await model.format.render(Chat(messages=(user("Hi"), assistant("Hello")), ending=Ending.CONTINUED))
        whole = Chat(messages=(user("Hi"), assistant("Hello"), user("And now?")))
        assert await model.format.render(Chat(messages=(user("And now?"),), context=context)) == await model.format.render(whole)


async def test_context_that_holds_the_end_of_its_turn_gets_no_second_one(models: dict[str, Model]) -> None:
    render = models["chatml"].format.render
    context = await render(Chat(messages=(user("Hi"), assistant("Hello")), ending=Ending.CONTINUED))
    ended = (*context, models["chatml"].tokenizer.token_id("<|im_end|>"))
    again = (user("And now?"),)
    assert await render(Chat(messages=again, context=ended)) == await render(Chat(messages=again, context=context))


async def test_an_opening_stands_at_the_end(models: dict[str, Model]) -> None:
    model = models["qwen3"]
    plain, opened = Chat(messages=(user("Hi"),)), Chat(messages=(user("Hi"),), opening="<think>\n")
    ids = tuple(model.tokenizer.encode("<think>\n", special=True))
    assert await model.format.render(opened) == await model.format.render(plain) + ids
    assert len(ids) == 2


async def test_a_custom_template_is_run_after_the_tokens_that_begin_a_text(models: dict[str, Model]) -> None:
    model = models["llama3"]
    chat = Chat(messages=(user("<|eot_id|>"),), template="<|start_header_id|>{{ .Prompt }}")
    ids = await model.format.render(chat)
    assert model.control_ids(ids) == [
        model.tokenizer.token_id("<|begin_of_text|>"),
        model.tokenizer.token_id("<|start_header_id|>"),
    ]
    same = Chat(messages=(user("<|eot_id|>"),), template="<|begin_of_text|><|start_header_id|>{{ .Prompt }}")
    assert await model.format.render(same) == ids
    continued = Chat(messages=(user("x"),), template="{{ .Prompt }}", context=(5, 6))
    assert (await model.format.render(continued))[:3] == (5, 6, model.tokenizer.token_id("<|eot_id|>"))


async def test_the_template_says_why_it_refuses_a_conversation(models: dict[str, Model]) -> None:
    with pytest.raises(InvalidValue, match="have to alternate") as raised:
        await models["gemma"].format.render(Chat(messages=(user("a"), user("b"))))
    assert raised.value.field == "messages"


async def test_a_developer_is_the_system_where_the_template_knows_none(models: dict[str, Model]) -> None:
    render = models["chatml"].format.render
    developer = Message(role="developer", content="S")
    assert await render(Chat(messages=(developer, user("x")))) == await render(Chat(messages=(system("S"), user("x"))))


async def test_long_conversations_render_to_the_same_ids(models: dict[str, Model]) -> None:
    turns = [message for at in range(100) for message in (user(f"Question {at} " + "word " * 20), assistant("Yes. "))]
    for name in ("chatml", "mistral", "qwen3"):
        await check_equal(models[name], Chat(messages=(*turns, user("x" * 10_000 + " <|im_"))))


async def test_a_long_conversation_is_within_the_budget(models: dict[str, Model]) -> None:
    turns = [message for _ in range(3000) for message in (user("Question"), assistant("Yes."))]
    for name in NAMES:
        await check_equal(models[name], Chat(messages=(*turns, user("y"))))


def test_capabilities_and_switches(models: dict[str, Model]) -> None:
    assert models["qwen3"].format.switches_thoughts
    assert not models["chatml"].format.switches_thoughts
    assert models["chatml"].format.capabilities == ()
