"""Fixtures that every suite shares."""

from pathlib import Path

import pytest
from hypothesis import settings

from serve_app.chat.tokenizer import Tokenizer
from serve_app.models.catalog import EMBEDDED

settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing on a shared one
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def model_dir() -> Path:
    return EMBEDDED


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.load(model_dir)
