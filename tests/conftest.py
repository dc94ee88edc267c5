"""Fixtures that every suite shares."""

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from benchmarks import stand_in
from serve_app.chat.tokenizer import Tokenizer
from serve_app.models.locate import EMBEDDED

settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing on a shared one
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model", choices=("embedded", "stand-in"), default="embedded", help="the model that engines of the contract suite serve"
    )
    flags = tuple(field.name for field in fields(stand_in.Form))
    parser.addoption(
        "--form", action="append", choices=flags, default=[], help="what the stand-in's tokenizer has otherwise than as published"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name schemathesis' tests after their operations: pytest-xdist knows tests by name, and runs one of each name only."""
    for item in items:
        if operation := getattr(item, "operation_label", None):
            item._id = item._id.with_params(operation)
    if twice := [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]:
        raise pytest.UsageError(f"several tests have one name: {twice}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.distribution import BySharing

    return BySharing(config, log)


@pytest.fixture(scope="session")
def model_dir(request: pytest.FixtureRequest) -> Path:
    if request.config.getoption("--model") == "embedded":
        return EMBEDDED
    folder: Path = request.getfixturevalue("real_dir")
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.load(model_dir)


@pytest.fixture(scope="session")
def real_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's files in small, with random weights."""
    published = stand_in.Form()
    changed = {name: not getattr(published, name) for name in request.config.getoption("--form")}
    folder = tmp_path_factory.mktemp("stand-in") / "Phi-4-mini-instruct"
    stand_in.write(folder, stand_in.SIZES["small"], replace(published, **changed))
    return folder


@pytest.fixture(scope="session")
def real_tokenizer(real_dir: Path) -> Tokenizer:
    return Tokenizer.load(real_dir)
