"""An ingress whose models cannot be loaded at first, without Serve: what a repair and `user_config` in the meantime lead to."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import ingress
from serve_app.config import AppSettings, ModelSettings
from serve_app.errors import ModelUnusable
from serve_app.models.served import ServedModel
from tests.unit.app import served_models

ENGINES = {"a": {"kind": "fake"}, "b": {"kind": "fake", "model": "smol"}}
Ingress: Any = next(each for each in ingress.Ingress.__mro__ if "_retry" in vars(each))
"""The class without Serve's wrapper."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the models that cannot be loaded."""
    names: set[str] = set()

    def load(name: str, settings: ModelSettings, folder: Path) -> ServedModel:
        if name in names:
            raise ModelUnusable("tokenizer.json is missing")
        only = AppSettings.model_validate({"models": {name: settings}, "engines": {"a": {"kind": "fake"}}})
        return served_models(only)[0]

    replica = SimpleNamespace(replica_id=SimpleNamespace(unique_id="x"), app_name="app")
    monkeypatch.setattr(ingress.serve, "get_replica_context", lambda: replica)
    monkeypatch.setattr(ingress, "locate", lambda settings, weights: Path())
    monkeypatch.setattr(ServedModel, "load", load)
    monkeypatch.setattr(ingress, "_RETRY_S", 0.01)
    return names


def _build(**more: Any) -> Any:
    models = {"models": {"phi": {}, "smol": {}}, "engines": ENGINES, "models_dir": None, "access": "open"}
    return Ingress(AppSettings.model_validate(models | more), {})


async def test_user_config_that_came_before_the_repair_counts_after_it(broken: set[str]) -> None:
    broken |= {"phi", "smol"}
    made = _build()
    made.reconfigure({"routing": {"auto": {"general": "smol"}}})
    broken.clear()
    await asyncio.wait_for(made._retry(), 10)
    assert made._gateway.catalog.is_auto("auto")
    assert made._gateway.settings.routing.find_auto_model("general") == "smol"


async def test_a_variant_that_the_repaired_model_refuses_does_not_end_the_attempts(broken: set[str]) -> None:
    broken |= {"smol"}
    made = _build(variants={"tutor": {"from": "smol", "system": "x " * 500, "parameters": {"num_ctx": 100}}})
    broken.clear()
    retrying = asyncio.create_task(made._retry())
    await asyncio.sleep(0.2)
    assert not retrying.done()
    assert made._gateway.catalog.resolve("phi").model.name == "phi"
    retrying.cancel()
