"""Ids come from the model's files, whatever the tokenizers library makes of them; files that contradict each other are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer as RustTokenizer

from benchmarks import stand_in
from serve_app.chat.formats.phi4.render import Phi4Template
from serve_app.chat.grammar import wrap_tokenizer
from serve_app.chat.lark import to_lark
from serve_app.chat.tokenizer import Tokenizer
from serve_app.chat.vocabulary import TokenizerFile
from serve_app.conversation import Chat, Message, Tool
from serve_app.errors import ModelUnusable
from serve_app.files.dense_tokenizer import write_dense_tokenizer
from serve_app.types import Grammar, OneOf

ADDED = stand_in.IN_VOCABULARY | stand_in.ROLE_TOKENS | stand_in.TOOL_TOKENS
TEXTS = (
    "Hello world, it's 12345.67 and don't <|end|> or <|tool_call|> <|user|>  me",
    "naïve café déjà vu, Ελληνικά, Привет мир, עברית, العربية",
    "हिन्दी में पाठ, ไทยภาษา, 日本語のテキスト, 中文文本, 한국어",
    "emoji 🎉👩‍👩‍👧 and \t tabs\n\n  lines\r\n",
)
FORMS = {
    "as published": stand_in.Form(),
    "otherwise": stand_in.Form(added_in_vocab=True, tools_special=True, tools_rstrip=True, merges_as_pairs=False),
}


@pytest.fixture(scope="module", params=["as published", pytest.param("otherwise", marks=pytest.mark.slow)])
def form_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, real_dir: Path) -> Path:
    """Another copy of the real tokenizer."""
    folder = tmp_path_factory.mktemp("form")
    for name in ("config.json", "generation_config.json"):
        shutil.copy(real_dir / name, folder)
    stand_in.write_tokenizer(folder, FORMS[request.param])
    return folder


@pytest.fixture(scope="module")
def copy(form_dir: Path) -> Tokenizer:
    return Tokenizer.load(form_dir)


def test_every_copy_has_the_files_ids(copy: Tokenizer) -> None:
    vocabulary = copy.vocabulary
    assert vocabulary.size == 200_064
    assert vocabulary.added == ADDED
    assert vocabulary.control_ids == frozenset(ADDED.values())
    assert vocabulary.stop_ids == (200_020, 199_999)
    assert [at for at in range(199_990, 200_064) if vocabulary.raw(at)] == [*range(199_990, 199_998), *sorted(ADDED.values())]
    hi, x = copy.encode("hi", special=False), copy.encode("x", special=False)
    marked = copy.encode("<|user|>hi<|end|><|tool_call|>x<|/tool_call|>", special=True)
    assert marked == [200_021, *hi, 200_020, 200_025, *x, 200_026]
    for text in TEXTS:
        ids = copy.encode(text, special=False)
        assert not vocabulary.control_ids & set(ids)
        assert b"".join(map(vocabulary.raw, ids)).decode() == text


async def test_every_copy_renders_tools(copy: Tokenizer) -> None:
    messages = (Message(role="system", content="Be kind."), Message(role="user", content="Hi!"))
    chat = Chat(messages=messages, tools=(Tool(name="f", function='{"name": "f", "parameters": {}}'),))
    ids = await Phi4Template(copy).render(chat)
    marks = [token for token in ids if token >= 199_998]
    assert marks == [200_022, 200_023, 200_024, 200_020, 200_021, 200_020, 200_019]


def test_constraints_know_every_control_token(copy: Tokenizer) -> None:
    wrapped = wrap_tokenizer(copy)
    assert wrapped.vocab_size == 200_064
    assert wrapped.eos_tokens == [200_020, 199_999]
    for text, token_id in ADDED.items():
        assert wrapped.is_special_token(token_id)
        if token_id in copy.vocabulary.stop_ids:
            continue  # they end an answer, and nothing may follow
        matcher = LLMatcher(wrapped, to_lark(Grammar(f'start: {text} "x"')))
        assert matcher.validate_tokens([token_id, *copy.encode("x", special=False)]) == 2
        assert matcher.validate_tokens(copy.encode(text, special=False)) == 0
    forced = LLMatcher(wrapped, to_lark(OneOf(("the same words every time",))))
    assert forced.compute_ff_tokens() == copy.encode("the same words every time", special=False)


@pytest.mark.slow
def test_the_dense_form_gives_transformers_the_files_ids(
    form_dir: Path, copy: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer  # takes seconds, and only this test needs it

    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path))
    folder = write_dense_tokenizer(form_dir)
    assert write_dense_tokenizer(form_dir) == folder
    library = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    assert library.get_vocab_size() == 200_064
    assert {text: library.token_to_id(text) for text in ADDED} == ADDED
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == 200_064
    assert theirs.eos_token_id == 199_999
    for text in TEXTS[1:]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == copy.encode(text, special=False)
    assert sorted(path.name for path in (tmp_path / "tokenizer").iterdir()) == [folder.name, f"{folder.name}.lock"]
    assert folder.stat().st_mode & 0o777 == 0o755, "other users may share the cache"


def _edit(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return apply


def _moved(token_id: int) -> Callable[[Any], None]:
    """Give the end token another id, in a file whose `model.vocab` lacks it."""

    def change(value: Any) -> None:
        next(token for token in value["added_tokens"] if token["content"] == "<|end|>")["id"] = token_id
        del value["model"]["vocab"]["<|end|>"]

    return change


def _without_end(value: Any) -> None:
    value.pop("eos_token_id")


def _respelled(value: Any) -> None:
    vocab = value["model"]["vocab"]
    vocab["▁the"] = vocab.pop(next(text for text in vocab if len(text) > 4 and not text.startswith("<|")))


END = r"`<\|end\|>`"
CONTRADICTIONS = {
    "another id beside it": (
        _edit("added_tokens.json", lambda value: value.update({"<|end|>": 3})),
        rf"tokenizer.json gives {END} the id 1, but added_tokens.json the id 3",
    ),
    "another id in the settings": (
        _edit("tokenizer_config.json", lambda value: value.update(added_tokens_decoder={"7": {"content": "<|end|>"}})),
        rf"tokenizer.json gives {END} the id 1, but tokenizer_config.json the id 7",
    ),
    "another id in the vocabulary": (
        _edit("tokenizer.json", lambda value: value["model"]["vocab"].update({"<|end|>": 10, "!": 1})),
        rf"tokenizer.json gives {END} the id 1 and also 10",
    ),
    "an id of another": (
        _edit("tokenizer.json", _moved(500)),
        rf"tokenizer.json gives {END} the id 500, which is that of `.*`",
    ),
    "an id of another added token": (
        _edit("tokenizer.json", _moved(0)),
        rf"tokenizer.json gives {END} the id 0, which is that of `<\|endoftext\|>`",
    ),
    "beyond the model": (
        _edit("tokenizer.json", lambda value: value["added_tokens"].append({"id": 2048, "content": "<|x|>", "special": True})),
        r"tokenizer.json gives `<\|x\|>` the id 2048, but config.json says vocab_size: 2048",
    ),
    "an end that is no token": (
        _edit("generation_config.json", lambda value: value.update(eos_token_id=[1, 4000])),
        r"generation_config.json says eos_token_id: \[1, 4000\], but tokenizer.json has no token with the id 4000",
    ),
    "an end that is no token, in config.json": (
        _edit("config.json", lambda value: value.update(eos_token_id=2047 + 5)),
        r"config.json says eos_token_id: 2052, but tokenizer.json has no token",
    ),
    "no end": (
        lambda folder: [_edit(name, _without_end)(folder) for name in ("config.json", "generation_config.json")],
        "neither generation_config.json nor config.json names an eos_token_id",
    ),
    "another kind": (
        _edit("tokenizer.json", lambda value: value["model"].update(type="Unigram")),
        "a tokenizer of the kind Unigram; only byte-level BPE",
    ),
    "not byte-level": (
        _edit("tokenizer.json", _respelled),
        "spells tokens otherwise than byte-level BPE does",
    ),
    "not JSON": (lambda folder: (folder / "tokenizer.json").write_text("{"), r"tokenizer.json cannot be read as JSON"),
    "not an object": (lambda folder: (folder / "config.json").write_text("[]"), r"config.json is not a JSON object"),
    "no form": (_edit("tokenizer.json", lambda value: value.pop("model")), r"does not have the form of a tokenizer"),
    "missing": (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer.json; fetch the model again"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_files_that_contradict_each_other_are_refused(name: str, model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "added_tokens.json").write_text("{}")
    change, message = CONTRADICTIONS[name]
    change(folder)
    with pytest.raises(ModelUnusable, match=message):
        Tokenizer.load(folder)


def test_a_library_that_numbers_tokens_anew_is_noticed(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def renumbered(self: TokenizerFile, *, control: bool) -> str:
        vocab = {**self.vocab, **(self.added if control else {}), **({"<|end|>": 2048} if control else {})}
        entries = self.content["added_tokens"] if control else []
        return json.dumps({**self.content, "added_tokens": entries, "model": {**self.content["model"], "vocab": vocab}})

    monkeypatch.setattr(TokenizerFile, "write_for_library", renumbered)
    with pytest.raises(ModelUnusable, match=rf"gives {END} the id .*, but the installed tokenizers library gives it 2048"):
        Tokenizer.load(model_dir)
