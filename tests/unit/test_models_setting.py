"""`args.models`: names, defaults, the refusal of the earlier form, and the model of each group."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve_app.config import AppSettings, ModelSettings

ENGINES = {"a": {"kind": "fake"}, "b": {"kind": "fake", "model": "phi"}}


def _settings(**args: Any) -> AppSettings:
    return AppSettings.model_validate({"engines": {"a": {"kind": "fake"}}} | args)


def test_a_group_serves_the_model_it_names_else_the_first() -> None:
    settings = _settings(models={"phi": {"path": "/models/phi"}}, engines=ENGINES)
    assert (settings.default_model, settings.model_of("a"), settings.model_of("b")) == ("phi", "phi", "phi")
    assert settings.models["phi"] == ModelSettings(path="/models/phi")
    with pytest.raises(ValidationError, match=r"engines.b.model: no model 'phi'; configured are: other"):
        _settings(models={"other": {}}, engines=ENGINES)


def test_without_models_the_embedded_one_is_served() -> None:
    settings = _settings()
    assert settings.models[settings.default_model].path == "embedded"
    assert "phi4-mini" in settings.models[settings.default_model].aliases


@pytest.mark.parametrize(
    "model",
    [
        {"path": "microsoft/Phi-4-mini-instruct"},
        {"path": "/models/x", "name": "mine", "aliases": ["a", "b"], "think_tags": ["<think>", "</think>"]},
        {},
        {"name": "phi-4-mini-instruct", "guided_calls": False},
    ],
)
def test_the_earlier_form_is_refused_with_lines_that_mean_the_same(model: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"args\.model is now args\.models") as refused:
        _settings(model=model)
    lines = refused.value.errors()[0]["msg"].partition("Write:\n")[2]
    settings = _settings(**yaml.safe_load(lines))
    name = model.get("name", "phi-4-mini-instruct")
    assert settings.default_model == name
    for field, value in model.items():
        if field != "name":
            assert settings.models[name].model_dump(mode="json")[field] == value
    if "aliases" not in model and name == "phi-4-mini-instruct":
        assert "phi4-mini" in settings.models[name].aliases


def test_several_models_are_refused_for_now() -> None:
    with pytest.raises(ValidationError, match="at most 1 item"):
        _settings(models={"a": {}, "b": {}})
