"""docs/architecture.md names files and code that exist, and the rooms that must not know a model do not name one."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
QUOTED = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w./-]+\.(?:py|md|toml|yaml)|[\w./-]+/")
NAME = re.compile(r"(?!serve_app$)[A-Z]\w+(?:\.\w+)?|_?(?!serve_app$)[a-z]\w*_\w+|[A-Z][A-Z_]+")
SHORT = ("serve_app", "serve_app/engines/onnx", "serve_app/engines/llama_cpp")
"""Folders of which the tables of the engines name files without their path."""
MODEL_NAMES = re.compile(r"phi-?[34]|microsoft/|<\|\w|ufdd[01]|go_template =|llama3|hermes", re.IGNORECASE)
MODEL_FREE = ("serve_app/dialects", "serve_app/http", "deployments")


@cache
def _code() -> str:
    return "\n".join(path.read_text() for folder in ("serve_app", "deployments", "tests") for path in (ROOT / folder).rglob("*.py"))


def _quoted() -> list[str]:
    return sorted(set(QUOTED.findall(DOCUMENT.read_text())))


@pytest.mark.parametrize("path", [each for each in _quoted() if PATH.fullmatch(each)])
def test_every_file_exists(path: str) -> None:
    assert any((ROOT / folder / path).exists() for folder in ("", *SHORT)), f"{DOCUMENT.name} names {path}, which does not exist"


@pytest.mark.parametrize("name", [each for each in _quoted() if NAME.fullmatch(each)])
def test_every_name_exists(name: str) -> None:
    part = name.rpartition(".")[2]
    assert re.search(rf"(?:class|def) {part}\b|^\s*{part}(?:: [^=\n]+)? =|\b{part}:|\"{part}\"", _code(), re.MULTILINE), name


def test_the_document_names_what_it_should() -> None:
    """Guards the patterns above: a document without quoted names would pass them."""
    assert sum(bool(PATH.fullmatch(each)) for each in _quoted()) > 30
    assert sum(bool(NAME.fullmatch(each)) for each in _quoted()) > 20


@pytest.mark.parametrize(
    "path",
    [ROOT / "serve_app" / "gateway.py", *(path for folder in MODEL_FREE for path in sorted((ROOT / folder).rglob("*.py")))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_model_marker_or_template_is_named(path: Path) -> None:
    named = [line.strip() for line in path.read_text().splitlines() if MODEL_NAMES.search(line)]
    assert not named


def test_no_file_is_long() -> None:
    files = [
        path for folder in ("serve_app", "deployments", "tests", "benchmarks", "training") for path in (ROOT / folder).rglob("*.py")
    ]
    assert not [str(path.relative_to(ROOT)) for path in files if len(path.read_text().splitlines()) > 400]
