"""The ONNX form: made once, of the model and precision asked for, whole or not at all."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serve_app.config import FakeSettings, OnnxSettings, VllmSettings
from serve_app.errors import EngineDead
from serve_app.models import export


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHI_SERVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onnx"


def test_replicas_that_start_together_export_once(model_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    real = export._build

    def count(model: Path, precision: str, target: Path) -> None:
        built.append(precision)
        real(model, precision, target)

    monkeypatch.setattr(export, "_build", count)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: export.export_onnx(model_dir, "fp32"), range(3)))
    assert built == ["fp32"]
    (folder,) = folders
    assert (folder / "model.onnx").exists()
    assert export.export_onnx(model_dir, "fp32") == folder
    assert built == ["fp32"]


def test_a_failed_export_says_why_and_leaves_nothing(model_dir: Path, cache: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(EngineDead, match=r"the export to ONNX fp32 failed with status 1"):
        export.export_onnx(broken, "fp32")
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_another_content_is_another_folder(model_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    assert export._fingerprint(other) == export._fingerprint(model_dir)
    weights = (other / "model.safetensors").read_bytes()
    middle = len(weights) // 2
    (other / "model.safetensors").write_bytes(weights[:middle] + bytes([weights[middle] ^ 1]) + weights[middle + 1 :])
    assert export._fingerprint(other) != export._fingerprint(model_dir)


def test_only_onnx_groups_need_a_derived_form(model_dir: Path, cache: Path) -> None:
    assert export.derive(model_dir, VllmSettings()) == export.derive(model_dir, FakeSettings()) == model_dir
    assert not cache.exists()
    assert OnnxSettings().precision == "fp32"
