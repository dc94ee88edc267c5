"""Fixtures that every suite shares."""

from pathlib import Path

import pytest

from serve_app.chat.tokenizer import Tokenizer
from serve_app.models.catalog import EMBEDDED


@pytest.fixture(scope="session")
def model_dir() -> Path:
    return EMBEDDED


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.load(model_dir)
