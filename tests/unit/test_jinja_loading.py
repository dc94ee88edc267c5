"""Which chat format a model's folder gets, what its files may say, and which tokenizers are read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models as rust_models
from tokenizers import pre_tokenizers

from serve_app.chat.formats.base import CallSyntax
from serve_app.chat.formats.hermes.syntax import HermesCallSyntax
from serve_app.chat.formats.hermes.tool_text import write_tools_as_text
from serve_app.chat.formats.jinja.format import JinjaFormat
from serve_app.chat.formats.jinja.source import TemplateSource, find_template, read_special_tokens
from serve_app.chat.formats.names import find_format_tokens
from serve_app.chat.formats.phi4.format import Phi4Format
from serve_app.chat.formats.phi4.syntax import Phi4CallSyntax
from serve_app.chat.formats.registry import build_format
from serve_app.chat.tokenizer import Tokenizer
from serve_app.chat.vocabulary import read_tokenizer_file
from serve_app.config import ModelSettings
from serve_app.conversation import AnswerForm, Chat, GenerateRequest, Message, RawText, Tool, ToolCall, ToolChoice
from serve_app.errors import ModelUnusable
from serve_app.models.locate import EMBEDDED
from serve_app.models.served import ServedModel
from serve_app.models.weights import Weights
from serve_app.types import ContextLimits, InvalidValue
from tests.unit.templated_models import FAMILIES, Model, build_tokenizer, build_with, load_model, read_template, write_model

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
QUESTION = Chat(messages=(Message(role="user", content="Hi"),))


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json").replace("_jinja", ".jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_a_file_wins_over_the_settings_and_these_over_the_processor(tmp_path: Path) -> None:
    write(tmp_path, chat_template_json={"chat_template": "c"})
    assert find_template(tmp_path) == TemplateSource("chat_template.json", "c", "c")
    write(tmp_path, tokenizer_config_json={"chat_template": "b"})
    assert find_template(tmp_path) == TemplateSource("tokenizer_config.json", "b", "b")
    write(tmp_path, chat_template_jinja="a")
    assert find_template(tmp_path) == TemplateSource("chat_template.jinja", "a", "a")
    write(tmp_path, additional_chat_templates__tool_use_jinja="t")
    assert find_template(tmp_path) == TemplateSource("chat_template.jinja", "a", "t")


async def test_named_templates(tmp_path: Path) -> None:
    write_model(FAMILIES["chatml"], tmp_path, "")
    named = [{"name": "tool_use", "template": "{{ tools|length }} tools"}, {"name": "default", "template": PLAIN}]
    write(tmp_path, tokenizer_config_json={"chat_template": named})
    tokenizer = Tokenizer.load(tmp_path)
    made = build_format(tokenizer, tmp_path)
    tool = Tool(name="f", function='{"name": "f"}')
    assert await made.render(QUESTION) == tuple(tokenizer.encode("Hi", special=False))
    assert await made.render(replace(QUESTION, tools=(tool,))) == tuple(tokenizer.encode("1 tools", special=False))
    assert made.go_template == PLAIN


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"chat_template": [{"name": "rag", "template": "x"}]}, "none called default"),
        ({"chat_template": [{"name": "default"}]}, "neither a template nor a list"),
        ({"chat_template": {"default": 5}}, "neither a template nor a list"),
        ({"chat_template": 5}, "neither a template nor a list"),
        ({"chat_template": "x" * (300 << 10)}, "more than 262144 characters"),
    ],
)
def test_templates_in_no_known_form(tmp_path: Path, settings: dict[str, object], fault: str) -> None:
    with pytest.raises(ModelUnusable, match=rf"tokenizer_config\.json.*{fault}"):
        find_template(write(tmp_path, tokenizer_config_json=settings))


def test_a_template_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelUnusable, match=r"chat_template\.jinja cannot be read"):
        find_template(tmp_path)


def test_special_tokens(tmp_path: Path) -> None:
    write(
        tmp_path,
        special_tokens_map_json={"bos_token": "<a>", "unk_token": {"content": "<u>"}, "additional_special_tokens": ["<x>"]},
    )
    write(tmp_path, tokenizer_config_json={"bos_token": "<b>", "eos_token": {"content": "<e>"}, "pad_token": None})
    assert read_special_tokens(tmp_path) == {"bos_token": "<b>", "unk_token": "<u>", "eos_token": "<e>"}


def test_the_format_is_chosen_by_tokens_then_template(tmp_path: Path) -> None:
    embedded = Tokenizer.load(EMBEDDED)
    assert isinstance(build_format(embedded), Phi4Format)
    assert isinstance(build_format(embedded, EMBEDDED), Phi4Format)
    assert isinstance(build_format(embedded, EMBEDDED, chat_format="jinja"), JinjaFormat)
    assert isinstance(build_format(embedded, EMBEDDED, chat_format="phi4", call_parser="phi4"), Phi4Format)
    tokenizer = Tokenizer.load(write_model(FAMILIES["chatml"], tmp_path))
    assert isinstance(build_format(tokenizer, tmp_path), JinjaFormat)
    with pytest.raises(ModelUnusable, match=r"chat_format: phi4: .* lacks .*<\|assistant\|>"):
        build_format(tokenizer, tmp_path, chat_format="phi4")
    assert build_format(embedded, EMBEDDED, call_parser="none").capabilities == ()
    with pytest.raises(ModelUnusable, match="tool_call_parser: hermes needs chat_format: jinja"):
        build_format(embedded, EMBEDDED, call_parser="hermes")
    with pytest.raises(ModelUnusable, match="lists no tools; set tool_call_parser: none, or hermes"):
        build_format(embedded, EMBEDDED, chat_format="jinja", call_parser="phi4")
    assert build_format(embedded, EMBEDDED, chat_format="jinja").capabilities == ()
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelUnusable, match=r"no chat template; add a chat_template\.jinja"):
        build_format(tokenizer, tmp_path)
    with pytest.raises(ModelUnusable, match="no chat template"):
        build_format(tokenizer)


async def test_the_embedded_models_template_gives_the_phi4_formats_prompt() -> None:
    tokenizer = Tokenizer.load(EMBEDDED)
    chat = Chat(messages=(Message(role="system", content="S"), Message(role="user", content="<|end|> x")))
    templated = build_format(tokenizer, EMBEDDED, chat_format="jinja", call_parser="none")
    assert await templated.render(chat) == await build_format(tokenizer).render(chat)


def with_syntax(template: str, syntax: CallSyntax | None) -> JinjaFormat:
    made = build_with(PLAIN)
    return JinjaFormat(made._tokenizer, TemplateSource("f", template, template), {}, syntax)


def test_tools_need_a_template_that_shows_them_and_a_syntax_of_calls() -> None:
    assert with_syntax(PLAIN + "{{ tools }}", Phi4CallSyntax()).capabilities == ("tools",)
    assert with_syntax(PLAIN, Phi4CallSyntax()).capabilities == ()
    assert with_syntax(PLAIN, HermesCallSyntax()).capabilities == ("tools",)
    assert with_syntax(PLAIN + "{{ tools }}", None).capabilities == ()


def test_constraints_and_parsers_are_the_syntaxs() -> None:
    tool, form = Tool(name="f", function='{"name": "f"}'), AnswerForm(tool_choice=ToolChoice.REQUIRED)
    syntax = Phi4CallSyntax()
    templated, plain = with_syntax(PLAIN + "{{ tools }}", syntax), with_syntax(PLAIN, None)
    assert templated.build_constraint((tool,), form) == syntax.build_constraint((tool,), form)
    assert templated.markers == syntax.markers
    assert plain.markers == {}
    assert plain.build_constraint((tool,), AnswerForm()) is None
    with pytest.raises(InvalidValue, match="calls no tools"):
        plain.build_constraint((tool,), form)
    parser = plain.build_call_parser((tool,), begun=False)
    assert parser.push('{"name": "f"}') == ['{"name": "f"}']
    assert parser.push("") == []
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ c.id }} {{ c.function.arguments.a }}", "call_1 b"),
        ("{% if c.id|length != 9 %}{{ raise_exception('short!') }}{% endif %}{{ c.id|length }}{{ c.function.arguments.a }}", "9b"),
        ("{{ c.id + ' ' + c.function.arguments }}", 'call_1 {"a": "b"}'),
        (
            "{% if c.id|length != 9 %}{{ raise_exception('short!') }}{% endif %}{{ c.id|length }}{{ '' + c.function.arguments }}",
            '9{"a": "b"}',
        ),
    ],
)
async def test_calls_have_the_form_that_the_template_takes(template: str, shown: str) -> None:
    made = build_with("{% for m in messages %}{% for c in m.tool_calls %}" + template + "{% endfor %}{% endfor %}")
    call = ToolCall(name="f", arguments='{"a": "b"}', id="call_1")
    ids = await made.render(Chat(messages=(Message(role="user", content="x"), Message(role="assistant", tool_calls=(call,)))))
    assert b"".join(map(made._tokenizer.raw, ids)).decode() == shown


def test_generic_control_tokens() -> None:
    names = find_format_tokens(("<|im_end|>", "<tool_call>"))
    assert {"<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"} <= names.control
    assert names.turn_end == "<|im_end|>"
    assert find_format_tokens(("<|eot_id|>", "<|end_of_text|>")).turn_end == "<|eot_id|>"
    assert find_format_tokens(("<x>",)).turn_end == ""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(FAMILIES["llama3"], write_model(FAMILIES["llama3"], tmp_path_factory.mktemp("llama")))


def serve(tokenizer: Tokenizer, folder: Path, **settings: Any) -> ServedModel:
    return ServedModel.build("m", ModelSettings(path=str(folder), **settings), tokenizer, Weights.read(EMBEDDED), folder)


LIMITS = ContextLimits(longest=100, window=None, complete=True)


async def test_raw_text_gets_the_token_that_begins_texts_once(tmp_path: Path) -> None:
    family = FAMILIES["llama3"]
    tokenizer = Tokenizer.load(write_model(family, tmp_path))
    model = serve(tokenizer, tmp_path)
    bos = tokenizer.token_id("<|begin_of_text|>")
    expected = tuple(build_tokenizer(family).encode("Hi there").ids)
    assert expected[0] == bos
    assert await model.render(RawText(text="Hi there"), LIMITS) == expected
    assert await model.render(RawText(text="<|begin_of_text|>Hi there"), LIMITS) == expected
    assert await model.render(RawText(text=""), LIMITS) == (bos,)


async def test_raw_text_gets_nothing_where_the_file_adds_nothing(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_model(FAMILIES["chatml"], tmp_path))
    assert tokenizer.vocabulary.prefix_ids == ()
    assert Tokenizer.load(EMBEDDED).vocabulary.prefix_ids == ()
    model = serve(tokenizer, tmp_path)
    assert await model.render(RawText(text="Hi"), LIMITS) == tuple(tokenizer.encode("Hi", special=True))


async def test_thinking_is_switched_by_the_template(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_model(FAMILIES["qwen3"], tmp_path))
    model = serve(tokenizer, tmp_path, think_tags=("<think>", "</think>"))
    shown = {}
    for think in (None, True, False):
        prepared = await model.prepare(GenerateRequest(request_id="r", prompts=(QUESTION,), think=think), LIMITS)
        shown[think] = model.decode_ids(prepared.prompts[0].ids)
    assert shown[None] == shown[True]
    assert shown[False] == shown[True] + "<think>\n\n</think>\n\n"


async def test_a_template_may_leave_text_out_so_no_prompt_is_refused_for_its_size(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_model(FAMILIES["llama3"], tmp_path))
    model = serve(tokenizer, tmp_path)
    spaces = Chat(messages=(Message(role="user", content=" " * 100_000 + "x"),))
    assert len(await model.render(spaces, LIMITS)) < 100
    assert model.format.count_control_tokens(spaces) == 0


def write_tokenizer(folder: Path, tokenizer: RustTokenizer) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_other_tokenizers_are_refused_with_their_kind(tmp_path: Path) -> None:
    unigram = RustTokenizer(rust_models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, byte_fallback=False))
    with pytest.raises(ModelUnusable, match="of the kind Unigram; only byte-level BPE"):
        read_tokenizer_file(write_tokenizer(tmp_path, unigram))
    with pytest.raises(ModelUnusable, match="of the kind WordPiece; only byte-level BPE"):
        read_tokenizer_file(write_tokenizer(tmp_path, RustTokenizer(rust_models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))))
    vocab = {"<unk>": 0, "a": 1}
    with pytest.raises(ModelUnusable, match="BPE tokenizer with byte fallback, as SentencePiece makes them; only byte-level BPE"):
        read_tokenizer_file(write_tokenizer(tmp_path, RustTokenizer(rust_models.BPE(vocab, [], byte_fallback=True))))
    characters = RustTokenizer(rust_models.BPE(vocab, []))
    characters.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelUnusable, match="BPE tokenizer of characters, without the step ByteLevel; only byte-level BPE"):
        read_tokenizer_file(write_tokenizer(tmp_path, characters))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ModelUnusable, match=r"SentencePiece tokenizer\.model and no tokenizer\.json; only byte-level BPE"):
        read_tokenizer_file(tmp_path)


@pytest.mark.parametrize("step", [5, ["x"], {"type": "Sequence", "processors": [5]}, {"type": "TemplateProcessing", "single": [5]}])
def test_a_post_processor_of_no_known_form_is_refused(tmp_path: Path, step: object) -> None:
    path = write_model(FAMILIES["chatml"], tmp_path) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": step}))
    with pytest.raises(ModelUnusable, match=r"^tokenizer\.json has a post_processor of no known form"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_byte_level_tokenizers_of_other_families_encode_as_their_library(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    tokenizer, reference = Tokenizer.load(write_model(family, tmp_path, "")), build_tokenizer(family)
    for text in (
        "",
        "Hello world 12345",
        " e\u0301 Å \u1e9b\u0323",
        "\n\n a",
        "".join(family.special),
        "x " + " y ".join(family.special),
    ):
        assert tokenizer.encode(text, special=True) == reference.encode(text, add_special_tokens=False).ids


async def test_tokens_that_must_be_words_of_their_own(tmp_path: Path) -> None:
    family = FAMILIES["spaced"]
    family = replace(family, flags={"single_word": True}, special=("end", "<|im_end|>"), prefix_space=False)
    template = "{% for m in messages %}{{ 'end' }}{{ m.content }}{{ 'end' }} {{ 'xend' }}{% endfor %}"
    model = load_model(family, write_model(family, tmp_path, template))
    for text in ("x", " x", "x ", " ", "", " end "):
        ids = await model.format.render(Chat(messages=(Message(role="user", content=text),)))
        expected = tuple(model.reference.apply_chat_template([{"role": "user", "content": text}], tokenize=True, return_dict=False))
        if "end" not in text:
            assert ids == expected
        else:
            assert len(model.control_ids(ids)) == len(model.control_ids(expected)) - 1


def test_the_published_embedded_template_is_shown(llama: Model) -> None:
    assert llama.format.go_template == read_template("llama3")


WEATHER = Tool(name="get_weather", function='{"name": "get_weather"}')


async def test_a_template_without_tools_gets_them_as_text_of_its_messages() -> None:
    made = with_syntax("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", HermesCallSyntax())
    call = ToolCall(name="get_weather", arguments='{"city": "Paris"}', id="1")
    chat = Chat(
        messages=(
            Message(role="user", content="Weather?"),
            Message(role="assistant", content="I look.", tool_calls=(call,)),
            Message(role="tool", content="sunny"),
            Message(role="tool", content="warm"),
        ),
        tools=(WEATHER,),
    )
    text = b"".join(map(made._tokenizer.raw, await made.render(chat))).decode()
    system, rest = text.split("[user]", 1)
    assert system.startswith("[system]You can call these functions.")
    assert '<tools>\n{"name": "get_weather"}\n</tools>' in system
    assert rest == (
        'Weather?[assistant]I look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        "[user]<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n</tool_response>"
    )


def test_the_clients_system_message_stays_before_the_tools() -> None:
    chat = Chat(messages=(Message(role="system", content="Be brief."), Message(role="user", content="x")), tools=(WEATHER,))
    first, second = write_tools_as_text(chat).messages
    assert first.content.startswith("Be brief.\n\nYou can call these functions.")
    assert second == chat.messages[1]
    plain = Chat(messages=chat.messages)
    assert write_tools_as_text(plain) == plain


def test_a_users_turn_after_results_is_one_turn_with_them() -> None:
    """Templates whose turns must alternate take no two turns of the user; the name is one as JSON."""
    call = ToolCall(name='get"weather', arguments="", id="1")
    chat = Chat(
        messages=(
            Message(role="user", content="Weather?"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="sunny"),
            Message(role="user", content="And tomorrow?"),
        ),
    )
    roles = [(message.role, message.content) for message in write_tools_as_text(chat).messages]
    assert roles == [
        ("user", "Weather?"),
        ("assistant", '<tool_call>\n{"name": "get\\"weather", "arguments": {}}\n</tool_call>'),
        ("user", "<tool_response>\nsunny\n</tool_response>\n\nAnd tomorrow?"),
    ]
