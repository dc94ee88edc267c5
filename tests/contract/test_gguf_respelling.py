"""GGUF files that llama.cpp's converter wrote: served with every capability of our own, from a copy that is written once."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from serve_app.chat.constraint import parse_tools
from serve_app.chat.formats.phi4.call_grammar import build_forced_calls
from serve_app.chat.tokenizer import Tokenizer
from serve_app.engine_config import LlamaCppSettings
from serve_app.engines.llama_cpp.engine import LlamaCppEngine
from serve_app.engines.registry import build_engine
from serve_app.errors import ModelUnusable
from serve_app.files.gguf_header import read_header
from serve_app.models import export, gguf_respelling
from serve_app.models.gguf import write_gguf
from serve_app.types import Capability, Constraint, JsonSchema, TokenRequest
from tests.contract.converter import EOT, USER_DEFINED, Form, convert
from tests.contract.play import ask, play, prompt

ROWS = 2080
"""Rows of the embedding in the small model; it has 2,048 tokens, the rest are no tokens."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHI_SERVE_CACHE", str(cache))


@pytest.fixture(scope="module")
def padded_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with ids that are no tokens."""
    folder = tmp_path_factory.mktemp("padded") / "model"
    shutil.copytree(model_dir, folder)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": ROWS}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    rest = torch.zeros(ROWS - embedding.shape[0], embedding.shape[1], dtype=embedding.dtype)
    save_file(weights | {"model.embed_tokens.weight": torch.cat([embedding, rest])}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def own_file(padded_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("own") / "own.gguf"
    write_gguf(padded_dir, "q8_0", file)
    return file


async def started(model: Path, **settings: Any) -> LlamaCppEngine:
    # Without reuse of prompts: one read in part rounds otherwise than one read whole, and a hot sample then takes another way.
    chosen = LlamaCppSettings.model_validate({"slots": 2, "max_model_len": 512, "prefix_cache": False} | settings)
    engine = build_engine(chosen, export.derive(model, chosen))
    assert isinstance(engine, LlamaCppEngine)
    await engine.start()
    return engine


FORMS: dict[str, Form] = {
    "the converter's": Form(),
    "older": Form(pads=USER_DEFINED, keys={"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_space_prefix": False}),
    "without pads": Form(pads=None),
    "text-like tools": Form(tools=USER_DEFINED, renamed={5: "<|tool|> ", 9: "\u2581<|tool_response|>"}),
    "another end": Form(keys={EOT: 0, "general.name": "Phi 4 Mini", "tokenizer.ggml.scores": [0.5] * 7}),
    "a pad token": Form(renamed={2050: "<|PAD\u2581TOKEN|>"}, keys={"tokenizer.ggml.padding_token_id": 2050}),
    "split tensors": Form(split=True),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_copy_has_our_spelling_and_everything_else_of_the_file(
    own_file: Path, padded_dir: Path, tmp_path: Path, form: Form
) -> None:
    foreign = convert(own_file, padded_dir, tmp_path / "phi.Q8_0.gguf", form)
    before = foreign.read_bytes()
    folder = export.derive(padded_dir, LlamaCppSettings(gguf=str(foreign)))
    copied, given, own = (read_header(path) for path in (folder / "phi.Q8_0.gguf", foreign, own_file))
    spelling = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type", EOT}
    assert {key: copied.keys[key] for key in spelling} == {key: own.keys[key] for key in spelling}
    kept = given.keys.keys() - spelling - {"tokenizer.ggml.scores"}
    assert {key: copied.keys[key] for key in kept} == {key: given.keys[key] for key in kept}
    assert copied.keys.keys() == kept | spelling
    assert copied.tensors == given.tensors
    content = (folder / "phi.Q8_0.gguf").read_bytes()
    assert content[copied.data_begin :] == before[given.data_begin :] == foreign.read_bytes()[given.data_begin :]
    assert [tensor.name for tensor in gguf.GGUFReader(folder / "phi.Q8_0.gguf").tensors] == list(given.tensors)


@pytest.mark.parametrize("name", ["without pads", "split tensors"])
async def test_every_form_is_served_as_ours_is(own_file: Path, padded_dir: Path, tmp_path: Path, name: str) -> None:
    foreign = convert(own_file, padded_dir, tmp_path / "phi.gguf", FORMS[name])
    engines = [await started(padded_dir, gguf=str(file)) for file in (foreign, own_file)]
    assert engines[0].info == engines[1].info
    for seed in range(2):
        request = ask(prompt(20, seed), temperature=1.5, seed=seed, max_tokens=40, logprobs=2)
        answers = [await play(engine, request) for engine in engines]
        assert (answers[0][0], answers[0][2]) == (answers[1][0], answers[1][2])
    for engine in engines:
        await engine.close()


async def test_more_rows_than_the_models_vocabulary_are_served(
    own_file: Path, padded_dir: Path, model_dir: Path, tmp_path: Path
) -> None:
    foreign = convert(own_file, padded_dir, tmp_path / "phi.gguf")
    engine = await started(model_dir, gguf=str(foreign))  # 2,048 by config.json, and 2,080 in the file
    assert len((await play(engine, ask(prompt(10), max_tokens=5)))[0]) == 5
    await engine.close()


def test_a_file_in_our_spelling_is_not_copied(own_file: Path, padded_dir: Path) -> None:
    folder = export.derive(padded_dir, LlamaCppSettings(gguf=str(own_file)))
    assert (folder / "own.gguf").is_symlink()
    assert (folder / "own.gguf").samefile(own_file)
    assert export.derive(padded_dir, LlamaCppSettings(gguf=str(own_file))) == folder


WRONG: dict[str, tuple[Form, str]] = {
    "another token": (
        Form(renamed={7: "<|tool_cool|>"}),
        r"token 7 of phi\.gguf is `<\|tool_cool\|>`, but `<\|tool_call\|>` in the model's tokenizer",
    ),
    "an ordinary token": (Form(renamed={500: "x-y-z"}), r"token 500 of phi\.gguf is `x-y-z`, but `.*` in the model's tokenizer"),
    "a number too far": (
        Form(renamed={7: "[PAD7]", 2049: "<|tool_call|>"}),
        r"token 7 of phi\.gguf is `\[PAD7\]`, but `<\|tool_call\|>`",
    ),
    "a token twice": (
        Form(renamed={2049: "<|tool_call|>"}),
        r"phi\.gguf gives `<\|tool_call\|>` the id 2049, and the model's tokenizer the id 7; .* tokenizers below 0\.22\.2",
    ),
    "a token too many": (Form(pads=1, renamed={2060: "new"}), r"token 2060 of phi\.gguf is `new`, but no token in the model's"),
    "another kind": (Form(keys={"tokenizer.ggml.model": "llama"}), r"phi\.gguf has no byte-level BPE tokenizer"),
    "a part": (Form(keys={"split.count": 2}), r"phi\.gguf is one part of several; join them"),
}


@pytest.mark.parametrize(("form", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_file_whose_ids_mean_something_else_is_refused(
    own_file: Path, padded_dir: Path, tmp_path: Path, form: Form, message: str
) -> None:
    foreign = convert(own_file, padded_dir, tmp_path / "phi.gguf", form)
    with pytest.raises(ModelUnusable, match=f"^{message}"):
        export.derive(padded_dir, LlamaCppSettings(gguf=str(foreign)))


def test_a_damaged_file_is_refused_by_name(own_file: Path, padded_dir: Path, tmp_path: Path) -> None:
    foreign = convert(own_file, padded_dir, tmp_path / "phi.gguf")
    foreign.write_bytes(foreign.read_bytes()[:-1000])
    with pytest.raises(ModelUnusable, match=r"^phi\.gguf is not a valid GGUF file: .* the file is cut short"):
        export.derive(padded_dir, LlamaCppSettings(gguf=str(foreign)))
    with pytest.raises(ModelUnusable, match=r"^none\.gguf cannot be read"):
        export.derive(padded_dir, LlamaCppSettings(gguf=str(tmp_path / "none.gguf")))


async def test_a_file_that_llama_cpp_refuses_is_named(own_file: Path, padded_dir: Path, tmp_path: Path) -> None:
    foreign = convert(own_file, padded_dir, tmp_path / "phi.gguf")
    foreign.write_bytes(foreign.read_bytes().replace(b"blk.5.attn_norm.weight", b"blk.5.attn_n0rm.weight"))
    with pytest.raises(ModelUnusable, match=r"^llama\.cpp cannot load phi\.gguf"):
        await started(padded_dir, gguf=str(foreign))


@pytest.mark.slow
def test_too_few_rows_are_refused(own_file: Path, real_dir: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"own\.gguf has 2080 rows in token_embd\.weight and 2080 tokens; .* ids beyond"):
        export.derive(real_dir, LlamaCppSettings(gguf=str(own_file)))


def test_replicas_that_start_together_copy_once_and_a_damaged_copy_is_written_anew(
    own_file: Path, padded_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path / "cache"))
    foreign = convert(own_file, padded_dir, tmp_path / "phi.gguf")
    settings = LlamaCppSettings(gguf=str(foreign))
    written: list[Path] = []
    real = gguf_respelling._write_copy

    def count(*arguments: Any) -> None:
        written.append(arguments[0])
        real(*arguments)

    monkeypatch.setattr(gguf_respelling, "_write_copy", count)
    told: list[tuple[str, float]] = []
    with ThreadPoolExecutor(3) as pool:
        (folder,) = set(pool.map(lambda _: export.derive(padded_dir, settings, lambda *what: told.append(what)), range(3)))
    assert written == [foreign]
    assert ("copying phi.gguf", 1.0) in told
    foreign.touch()
    assert export.derive(padded_dir, settings) == folder
    assert written == [foreign]
    with (folder / "phi.gguf").open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\xff\x00")
    assert export.derive(padded_dir, settings) == folder
    assert written == [foreign] * 2
    assert (folder / "phi.gguf").read_bytes()[-100:] == foreign.read_bytes()[-100:]
    with foreign.open("r+b") as file:  # other content is another copy
        file.seek(-100, os.SEEK_END)
        file.write(b"\xff\x00")
    assert export.derive(padded_dir, settings) != folder


def test_a_full_disk_is_said_before_it_is_full(
    own_file: Path, padded_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("a small disk takes the right to mount one (root)")
    try:
        monkeypatch.setenv("PHI_SERVE_CACHE", str(disk / "cache"))
        foreign = convert(own_file, padded_dir, tmp_path / "phi.gguf")
        settings = LlamaCppSettings(gguf=str(foreign))
        with pytest.raises(
            ModelUnusable, match=r"^phi\.gguf needs a copy of 0\.0 GiB in the cache, .* and 0\.0 GiB are free; make"
        ):
            export.derive(padded_dir, settings)
        monkeypatch.setattr(gguf_respelling, "_require_room", lambda *_: None)  # as if others took the room meanwhile
        with pytest.raises(ModelUnusable, match=r"^the disk became full while copying phi\.gguf, 0\.0 GiB, .*; make room"):
            export.derive(padded_dir, settings)
        assert [file.suffix for file in (disk / "cache" / "gguf").iterdir()] == [".lock"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


_RESPELL = """
import resource, sys
from pathlib import Path
from serve_app.models.gguf_respelling import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare(Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_file(own_file: Path, padded_dir: Path, tmp_path: Path) -> None:
    plain = convert(own_file, padded_dir, tmp_path / "plain.gguf")
    header = read_header(plain)
    large = tmp_path / "large.gguf"
    more = 400 << 20
    writer = gguf.GGUFWriter(tmp_path / "entry", "phi3")
    writer.add_tensor_info("more.weight", (more // 4,), np.dtype(np.float32), more)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    begin, end = read_entries(tmp_path / "entry")
    with plain.open("rb") as source, large.open("wb") as out:
        start = source.read(header.entries[0])
        count = int.from_bytes(start[8:16], "little") + 1
        out.write(start[:8] + count.to_bytes(8, "little") + start[16:])
        out.write(source.read(header.entries[1] - header.entries[0]))
        data_bytes = plain.stat().st_size - header.data_begin
        entry = (tmp_path / "entry").read_bytes()[begin:end]
        out.write(entry[:-8] + data_bytes.to_bytes(8, "little"))
        out.write(bytes(-out.tell() % header.alignment))
        source.seek(header.data_begin)
        out.write(source.read())
        out.truncate(out.tell() + more)
    assert read_header(large).tensors["more.weight"].bytes == more
    command = [sys.executable, "-c", _RESPELL, str(large), str(padded_dir)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown << 10 < more / 4, f"{grown >> 10} MiB more for a file of {more >> 20} MiB"


def read_entries(file: Path) -> tuple[int, int]:
    """Return where the only tensor's entry of a file without data lies: at its end, before the padding."""
    content = file.read_bytes()
    at = content.index(b"more.weight") - 8
    return at, at + 8 + len("more.weight") + 4 + 8 + 4 + 8


def _halves(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens whose bytes are no text alone."""
    return [at for at, raw in enumerate(tokenizer.vocabulary.tokens) if raw.decode("utf-8", "replace").encode() != raw]


def _with(constraint: Constraint, tokenizer: Tokenizer) -> TokenRequest:
    plain = ask(prompt(12), temperature=1.0, seed=3, max_tokens=200, stop_token_ids=tokenizer.vocabulary.stop_ids)
    return TokenRequest(request_id="c", prompt=plain.prompt, sampling=plain.sampling, constraint=constraint)


TEXT = "Grüße an ß é Ærø, 日本語 🐱🧑🏽\u200d🚀 ᴥ ꙮ, жизнь, हिन्दी, ไทย, 한국어, עברית"
SCHEMA = {
    "type": "object",
    "properties": {"said": {"const": TEXT}, "kind": {"enum": ["ж", "ß", "漢"]}, "sure": {"type": "boolean"}},
    "required": ["said", "kind", "sure"],
    "additionalProperties": False,
}


async def require_everything(engine: LlamaCppEngine, tokenizer: Tokenizer) -> None:
    """Hold an engine over the real model's stand-in to all that our own files allow."""
    assert frozenset(Capability) - engine.info.capabilities == {
        Capability.OUTPUT_PENALTIES,
        Capability.UNICODE_PATTERNS,
        Capability.STRUCTURED_MIN_TOKENS,
    }
    halves = _halves(tokenizer)
    ids, end, logprobs = await play(engine, ask(prompt(20), temperature=1.5, seed=1, max_tokens=80, logit_bias=_more(halves)))
    assert end.usage.completion_tokens == len(ids) == 80
    assert len(set(halves) & set(ids)) > 20, "the test says nothing without tokens that are half a character"
    ids, _, logprobs = await play(engine, ask(prompt(20), max_tokens=20, logprobs=3, logit_bias=_more(halves)))
    assert [each.token for each in logprobs] == list(ids)
    said = b"".join(map(tokenizer.raw, (await play(engine, _with(JsonSchema(json.dumps(SCHEMA)), tokenizer)))[0]))
    assert json.loads(said)["said"] == TEXT
    parameters = {"type": "object", "properties": {"unit": {"enum": ["C", "°F"]}}, "required": ["unit"]}
    calls = build_forced_calls(parse_tools([{"name": "weather", "parameters": parameters}]), parallel=False)
    first, *written, last = (await play(engine, _with(calls, tokenizer)))[0]
    assert (first, last) == (200_025, 200_026)
    (call,) = json.loads(b"".join(map(tokenizer.raw, written)))
    assert (call["name"], call["arguments"]["unit"] in ("C", "°F")) == ("weather", True)


def _more(ids: list[int]) -> dict[int, float]:
    return dict.fromkeys(ids, 12.0)


@pytest.mark.slow
async def test_the_real_models_file_has_every_capability(real_dir: Path, real_tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_gguf(real_dir, "q8_0", tmp_path / "own.gguf")
    foreign = convert(tmp_path / "own.gguf", real_dir, tmp_path / "Phi-4-mini-instruct.Q8_0.gguf", Form(tools=USER_DEFINED))
    engine = await started(real_dir, gguf=str(foreign))
    await require_everything(engine, real_tokenizer)
    await engine.close()
