"""Variants on disk: several processes, killed ones, and folders that others have tampered with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve_app.config import AppSettings
from serve_app.errors import ModelNotFound, StorageFailed
from serve_app.models.catalog import Catalog
from tests.unit.app import served_models


def _catalog(folder: Path) -> Catalog:
    return _configured({"engines": {"a": {"kind": "fake"}}, "models_dir": str(folder)})


def _configured(args: dict[str, object]) -> Catalog:
    settings = AppSettings.model_validate(args)
    return Catalog(settings, served_models(settings), created=1)


def test_what_one_replica_makes_another_serves_at_once(tmp_path: Path) -> None:
    first, second = _catalog(tmp_path / "m"), _catalog(tmp_path / "m")
    with pytest.raises(ModelNotFound):
        second.resolve("x")
    for round_ in range(50):  # faster than the file system's clock ticks
        first.create("x", "phi4-mini", {"system": str(round_)})
        assert second.resolve("x").variant.settings.system == str(round_)
        first.create("y", "x", {})
        assert second.resolve("y").variant.settings.system == str(round_)
        second.delete("y")
        with pytest.raises(ModelNotFound):
            first.resolve("y")
    assert _catalog(tmp_path / "m").resolve("X:latest").variant.settings.system == "49"
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["x.json"]


def test_an_unchanged_folder_is_not_read_again(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path)
    catalog.create("x", "phi4-mini", {"system": "S"})
    os.utime(tmp_path, (time.time() - 60,) * 2)
    found = catalog.resolve("x").variant
    assert catalog.resolve("x").variant is found
    os.utime(tmp_path, (time.time() - 50,) * 2)
    assert catalog.resolve("x").variant == found


WRITER = """
import sys
from pathlib import Path
from tests.unit.test_variant_store import _catalog
catalog = _catalog(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for text in ("a", "b"):
        catalog.create("x", "phi4-mini", {"system": text * 200_000})
"""


@pytest.mark.slow
def test_a_killed_creation_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    reader = _catalog(tmp_path)
    for pause_s in (0.0, 0.003, 0.01, 0.02, 0.037):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = [model for model in reader.variants if model.name == "x"]
        assert all(set(model.settings.system) in ({"a"}, {"b"}) and len(model.settings.system) == 200_000 for model in found)
    reader.create("x", "phi4-mini", {"system": "new"})
    assert reader.resolve("x").variant.settings.system == "new"


def test_what_killed_processes_left_is_cleared_away(tmp_path: Path) -> None:
    old, young = tmp_path / ".old.tmp", tmp_path / ".young.tmp"
    for file in (old, young):
        file.write_text("half")
    os.utime(old, (time.time() - 3600,) * 2)
    _catalog(tmp_path).create("x", "phi4-mini", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".young.tmp", "x.json"]


def test_links_and_other_files_are_left_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    folder = tmp_path / "models"
    catalog = _catalog(folder)
    catalog.create("real", "phi4-mini", {"system": "S"})
    good = (folder / "real.json").read_text()
    outside.write_text(good.replace('"real"', '"link"'))
    (folder / "link.json").symlink_to(outside)
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "broken.json").write_text(good[: len(good) // 2])
    (folder / "other.json").write_text(good)  # a copy under another name
    (folder / "large.json").write_bytes(b" " * (9 << 20))
    (folder / "climb.json").write_text(good.replace('"real"', '"../climb"'))
    (folder / "taken.json").write_text(good.replace('"real"', '"phi4-mini"'))
    (folder / "phi4-mini.json").write_text(good.replace('"real"', '"phi4-mini"'))
    (folder / "notes.txt").write_text("not a model")
    assert {model.name for model in _catalog(folder).variants if model.stored} == {"real"}
    assert _catalog(folder).resolve("phi4-mini").variant.settings.system == ""
    catalog.create("link", "phi4-mini", {"system": "new"})
    assert not (folder / "link.json").is_symlink()
    assert outside.read_text() == good.replace('"real"', '"link"')
    (folder / "dangling.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ModelNotFound):
        catalog.delete("dangling")


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    catalog = _catalog(tmp_path / "file" / "models")
    with pytest.raises(StorageFailed, match="models_dir") as caught:
        catalog.create("x", "phi4-mini", {})
    assert str(tmp_path) not in caught.value.message
    assert "x" not in {variant.name for variant in catalog.variants}


def test_names_of_several_parts_are_files_of_one_folder(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path)
    catalog.create("host/space/Name:v1.2", "phi4-mini", {})
    (file,) = tmp_path.iterdir()
    assert file.name == "host%2Fspace%2Fname%3Av1.2.json"
    assert catalog.resolve("HOST/space/name:V1.2").variant.name == "host/space/Name:v1.2"


def test_a_configured_variant_of_nothing_is_refused() -> None:
    settings = {"engines": {"a": {"kind": "fake"}}, "models_dir": None, "variants": {"x": {"from": "nope"}}}
    with pytest.raises(ValueError, match=r"variants\.x\.from: no model or variant 'nope'; configured are: phi-4-mini-instruct"):
        _configured(settings)
    circle = {"x": {"from": "y"}, "y": {"from": "library/X"}}
    with pytest.raises(ValueError, match=r"variants\.x\.from: derives from itself"):
        _configured(settings | {"variants": circle})
    with pytest.raises(ValueError, match="colour"):
        AppSettings.model_validate(settings | {"variants": {"x": {"parameters": {"colour": 1}}}})
    with pytest.raises(ValueError, match=r"variants\.phi4-mini: 'phi4-mini' is the same name"):
        _configured(settings | {"variants": {"phi4-mini": {}}})


def test_variants_may_be_configured_in_any_order() -> None:
    variants = {"child": {"from": "Parent:latest", "parameters": {"seed": 1}}, "library/Parent": {"system": "S"}}
    catalog = _configured({"engines": {"a": {"kind": "fake"}}, "models_dir": None, "variants": variants})
    child = catalog.resolve("child").variant
    assert (child.settings.system, child.settings.parameters, child.parent) == ("S", {"seed": 1}, "Parent")
