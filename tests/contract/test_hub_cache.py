"""Models in the hub's cache, as huggingface_hub lays it out: links into blobs, no network, and nobody's Python files."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub import try_to_load_from_cache
from huggingface_hub._tree_cache import TREE_CACHE_FORMAT_VERSION
from huggingface_hub.errors import IncompleteSnapshotError

from deployments.replica import EngineReplica, NamedModel
from serve_app.chat.tokenizer import Tokenizer
from serve_app.config import ModelSettings
from serve_app.engine_config import EngineSettings, LlamaCppSettings, OnnxSettings, VllmSettings
from serve_app.engines.registry import build_engine
from serve_app.errors import ModelUnusable
from serve_app.files.cache import hash_content, read_content
from serve_app.models import export
from serve_app.models.checkpoint import Checkpoint
from serve_app.models.gguf import write_gguf
from serve_app.models.locate import locate
from serve_app.models.weights import Weights
from serve_app.types import Phase
from tests.contract.converter import convert
from tests.contract.play import ask, play, prompt

NAME = "microsoft/Phi-4-mini-instruct"
COMMIT = "c" * 40


class HubCache:
    """The cache of one repository."""

    def __init__(self, root: Path, name: str = NAME) -> None:
        self.repository = root / f"models--{name.replace('/', '--')}"
        self.snapshot = self.repository / "snapshots" / COMMIT
        self.snapshot.mkdir(parents=True)
        (self.repository / "blobs").mkdir()
        (self.repository / "refs").mkdir()
        (self.repository / "refs" / "main").write_text(COMMIT)

    def add(self, file: Path, name: str | None = None) -> Path:
        """Store a file as the hub's client does: large ones by their SHA-256 sum, small ones by git's SHA-1; return the link."""
        content = file.read_bytes()
        large = file.suffix in (".safetensors", ".gguf")
        digest = hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)
        blob = self.repository / "blobs" / digest.hexdigest()
        shutil.copyfile(file, blob)
        link = self.snapshot / (name or file.name)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        return link


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network: what HF_HUB_CACHE and HF_HUB_OFFLINE do, which are read once only."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


def _filled(hub: Path, model: Path, wanted: Callable[[Path], bool] = lambda _: True) -> HubCache:
    cache = HubCache(hub)
    for file in sorted(model.iterdir()):
        if wanted(file):
            cache.add(file)
    return cache


def test_a_hub_id_and_a_folder_in_the_cache_are_the_same_model(hub: Path, real_dir: Path) -> None:
    cache = _filled(hub, real_dir)
    assert try_to_load_from_cache(NAME, "config.json", cache_dir=hub) == str(cache.snapshot / "config.json")
    folder = locate(ModelSettings(path=NAME), weights=True)
    assert folder == cache.snapshot
    assert locate(ModelSettings(path=str(cache.snapshot)), weights=True) == folder
    assert locate(ModelSettings(path=NAME, revision=COMMIT), weights=True) == folder
    assert Tokenizer.load(folder, control=False).token_id("<|end|>") == 200_020
    assert Weights.read(folder).identity == Weights.read(real_dir).identity
    assert Checkpoint(folder).tensors.keys() == Checkpoint(real_dir).tensors.keys()
    part = folder / "model-00001-of-00002.safetensors"
    assert list(read_content(part)) == [part.resolve().name.encode()]
    assert part.resolve().name == hashlib.sha256(part.read_bytes()).hexdigest()


def test_only_the_hubs_names_count_as_content(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    for name in ("phi.gguf", "f" * 39):
        file = tmp_path / "blobs" / name
        file.write_bytes(b"first")
        before = hash_content(file)
        file.write_bytes(b"other")
        assert hash_content(file) != before


async def test_a_snapshot_is_served_by_its_id(hub: Path, model_dir: Path) -> None:
    _filled(hub, model_dir)
    folder = locate(ModelSettings(path=NAME), weights=True)
    settings = LlamaCppSettings(precision="q8_0", slots=1, max_model_len=256)
    derived = export.derive(folder, settings)
    assert not any(file.is_symlink() for file in derived.iterdir())
    engine = build_engine(settings, derived)
    await engine.start()
    assert (await play(engine, ask(prompt(10))))[0]
    await engine.close()


async def test_a_form_exported_to_the_hub_is_served_from_its_cache(hub: Path, model_dir: Path, tmp_path: Path) -> None:
    export.export_to_folder(model_dir, "gguf", "q8_0", tmp_path / "own")
    _filled(hub, model_dir, lambda file: file.suffix != ".safetensors")
    cache = HubCache(hub, "someone/exported")
    for file in (tmp_path / "own").iterdir():
        cache.add(file, f"q8_0/{file.name}")
    shutil.rmtree(tmp_path / "own")
    settings = LlamaCppSettings(precision="q8_0", exported=str(cache.snapshot / "q8_0"), slots=1, max_model_len=256)
    assert await _phase(settings, ModelSettings(path=NAME)) is Phase.READY


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        VllmSettings(max_model_len=512, max_num_seqs=2, kv_cache_gib=0.25),
        OnnxSettings(precision="int4", max_model_len=512, slots=2),
        LlamaCppSettings(max_model_len=512, slots=2),
    ],
    ids=lambda settings: str(settings.kind),
)
async def test_the_real_models_snapshot_is_served_by_every_group(hub: Path, real_dir: Path, settings: EngineSettings) -> None:
    """Its Python files, which config.json names, lie beside the others and raise when anybody runs them."""
    cache = _filled(hub, real_dir)
    assert list(cache.snapshot.glob("*.py"))
    assert await _phase(settings, ModelSettings(path=NAME)) is Phase.READY


async def _phase(settings: EngineSettings, model: ModelSettings) -> Phase:
    replica = EngineReplica.__new__(EngineReplica)

    async def heard(_: object) -> bool:
        return True

    await replica.__init__("a", settings, NamedModel("phi", model), lambda: ("r1", heard))  # type: ignore[misc]
    phase = replica.report().phase
    await replica.close()
    return phase


async def test_a_gguf_file_in_the_cache_needs_no_checkpoint(hub: Path, model_dir: Path, tmp_path: Path) -> None:
    write_gguf(model_dir, "q8_0", tmp_path / "own.gguf")
    convert(tmp_path / "own.gguf", model_dir, tmp_path / "Phi-4-mini-instruct-Q8_0.gguf")
    _filled(hub, model_dir, lambda file: file.suffix != ".safetensors")
    link = HubCache(hub, "someone/Phi-4-mini-instruct-GGUF").add(tmp_path / "Phi-4-mini-instruct-Q8_0.gguf")
    settings = LlamaCppSettings(gguf=str(link), slots=1, max_model_len=256)
    assert await _phase(settings, ModelSettings(path=NAME)) is Phase.READY
    (copy,) = (tmp_path / "cache" / "gguf").glob("*-respelled")
    assert (copy / "Phi-4-mini-instruct-Q8_0.gguf").stat().st_size > (copy / "config.json").stat().st_size


def test_only_groups_that_read_the_checkpoint_need_it() -> None:
    assert [export.needs_checkpoint(each) for each in (VllmSettings(), OnnxSettings(), LlamaCppSettings())] == [True] * 3
    made = (OnnxSettings(exported="a"), LlamaCppSettings(exported="a"), LlamaCppSettings(gguf="a.gguf"))
    assert not any(map(export.needs_checkpoint, made))


LACKING: dict[str, tuple[str, bool, str]] = {
    "all": (
        None,
        True,
        r"this node's hub cache has nothing of microsoft/Phi-4-mini-instruct, and HF_HUB_OFFLINE is set; run `hf dow",
    ),
    "the weights": (
        lambda name: name.endswith(".json"),
        True,
        r"has no model-00001-of-00002\.safetensors and no model-00002-of-00002\.safetensors of micr",
    ),
    "a part": (lambda name: "00002-of" not in name, True, r"has no model-00002-of-00002\.safetensors of microsoft"),
    "the tokenizer": (
        lambda name: name == "config.json",
        False,
        r"has no tokenizer\.json of microsoft/Phi-4-mini-instruct, and HF_HUB_OFFLINE is set",
    ),
}


@pytest.mark.parametrize(("kept", "weights", "message"), LACKING.values(), ids=LACKING.keys())
def test_what_the_cache_lacks_is_said_in_a_sentence(
    hub: Path, real_dir: Path, tmp_path: Path, kept: Callable[[str], bool] | None, weights: bool, message: str
) -> None:
    if kept is not None:
        _filled(hub, real_dir, lambda file: kept(file.name))
    with pytest.raises(ModelUnusable, match=message) as refused:
        locate(ModelSettings(path=NAME), weights=weights)
    assert str(tmp_path) not in refused.value.message
    assert "\n" not in refused.value.message


def test_a_blob_that_is_gone_is_missing(hub: Path, real_dir: Path) -> None:
    cache = _filled(hub, real_dir)
    (cache.snapshot / "model-00002-of-00002.safetensors").resolve().unlink()
    for path in (NAME, str(cache.snapshot)):
        with pytest.raises(ModelUnusable, match=r"(has no|lacks) model-00002-of-00002\.safetensors"):
            locate(ModelSettings(path=path), weights=True)
    assert locate(ModelSettings(path=NAME), weights=False) == cache.snapshot


def test_a_listing_of_more_files_than_are_needed_hinders_nothing(hub: Path, model_dir: Path) -> None:
    """Newer clients keep the repository's list of files; what the model does not need may be missing."""
    cache = _filled(hub, model_dir)
    (cache.repository / "trees").mkdir()
    entry = '{"size": 1, "blob_id": "0"}'
    (cache.repository / "trees" / f"{COMMIT}.json").write_text(
        f'{{"format_version": {TREE_CACHE_FORMAT_VERSION}, "files": {{"config.json": {entry}, "more/sample.json": {entry}}}}}'
    )
    with pytest.raises(IncompleteSnapshotError):
        huggingface_hub.snapshot_download(NAME, allow_patterns=["*.json"])
    assert locate(ModelSettings(path=NAME), weights=True) == cache.snapshot


def test_the_environment_says_so_too(tmp_path: Path, model_dir: Path) -> None:
    _filled(tmp_path / "home" / "hub", model_dir)
    code = "from serve_app.config import ModelSettings as M; from serve_app.models.locate import locate; import sys\n"
    code += "print(locate(M(path=sys.argv[1]), weights=True).name)"
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, NAME], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == COMMIT, done.stderr


def test_no_python_file_is_asked_for(hub: Path, real_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    real = huggingface_hub.snapshot_download

    def listen(*arguments: object, **options: object) -> str:
        asked.append(list(options["allow_patterns"]))  # type: ignore[call-overload]
        return str(real(*arguments, **options))  # type: ignore[call-overload]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", listen)
    _filled(hub, real_dir)
    for weights in (True, False):
        locate(ModelSettings(path=NAME), weights=weights)
    assert asked
    assert not [file for patterns in asked for pattern in patterns for file in real_dir.glob("*.py") if file.match(pattern)]


def test_vllm_runs_no_python_file_of_the_model(hub: Path, real_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stand-in's Python files, which config.json names, raise when anybody imports them."""
    from vllm import AsyncEngineArgs

    from serve_app.engines.vllm.engine import _build_engine_args
    from serve_app.files.dense_tokenizer import write_dense_tokenizer

    folder = _filled(hub, real_dir).snapshot
    assert list(folder.glob("*.py"))
    arguments = _build_engine_args(VllmSettings(max_model_len=512), folder) | {"tokenizer": str(write_dense_tokenizer(folder))}
    config = AsyncEngineArgs(**arguments).create_engine_config()
    assert config.model_config.trust_remote_code is False
    assert type(config.model_config.hf_config).__module__.startswith("transformers.models.phi3")
    assert config.model_config.get_vocab_size() == 200_064
