"""`args.models`: names, defaults, the refusal of the earlier form, and the model of each group."""

import re
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve_app.config import AppSettings, ModelSettings
from serve_app.types import Task

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


TWO = {
    "models": {"phi": {"aliases": ["p"]}, "smol": {}},
    "engines": {"a": {"kind": "fake"}, "b": {"kind": "fake", "model": "smol"}},
}


ENCODERS: dict[str, Any] = {
    "models": {"mini": {"aliases": ["small"]}, "phi": {}},
    "engines": {"e": {"kind": "onnx_encoder"}, "a": {"kind": "fake", "model": "phi"}},
}


def test_the_default_model_is_the_first_one_that_generates() -> None:
    settings = _settings(**ENCODERS)
    assert (settings.embedding_models, settings.default_model, settings.model_of("e")) == (("mini",), "phi", "mini")
    only = _settings(models={"mini": {}}, engines={"e": {"kind": "onnx_encoder"}})
    assert (only.embedding_models, only.default_model) == (("mini",), "mini")
    assert _settings().embedding_models == ()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"engines": {"e": {"kind": "onnx_encoder"}, "a": {"kind": "fake"}}, "models": {"mini": {}}},
            "give those of the kind onnx_enc",
        ),
        ({"variants": {"v": {"from": "Small:latest", "system": "x"}}}, "variants.v.from: 'small' is an embedding model"),
        ({"variants": {"w": {"from": "v"}, "v": {"from": "mini"}}}, "'mini' is an embedding model"),
        ({"routing": {"auto": {"general": "mini"}}}, "routing.auto.general: 'mini' is an embedding model"),
        (
            {"routing": {"auto": {"general": "phi"}, "auto_fallback": ["small"]}},
            "routing.auto_fallback: 'small' is an embedding model",
        ),
        ({"engines": {"e": {"kind": "onnx_encoder", "pooling": "max"}, "a": {"kind": "fake", "model": "phi"}}}, "'mean' or 'cls'"),
        ({"engines": {"e": {"kind": "onnx_encoder", "slots": 4}, "a": {"kind": "fake", "model": "phi"}}}, "Extra inputs"),
        ({"limits": {"max_embedding_inputs": 0}}, "greater than or equal to 1"),
    ],
)
def test_an_embedding_model_where_none_can_be(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(fault)):
        _settings(**ENCODERS | changes)


def test_several_models_each_have_their_groups() -> None:
    settings = _settings(**TWO)
    assert (settings.default_model, settings.model_of("a"), settings.model_of("b")) == ("phi", "phi", "smol")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"engines": {"a": {"kind": "fake"}}}, "models.smol: no engine group serves it; give a group `model: smol`"),
        ({"models": {"phi": {}, "smol": {"aliases": ["library/PHI:latest"]}}}, "is also a name of the model phi"),
        ({"routing": {"auto": {"math": "smoll"}}}, "routing.auto.math: no model 'smoll'; configured are: phi, smol"),
        ({"routing": {"auto": {"poetry": "smol"}}}, "routing.auto.poetry"),
        ({"routing": {"auto": {"math": "smol"}, "auto_fallback": ["x"]}}, "routing.auto_fallback: no model 'x'"),
        ({"routing": {"auto_unnamed": True}}, "routing.auto: is empty"),
        ({"routing": {"auto_fallback": ["smol"]}}, "routing.auto: is empty"),
        ({"routing": {"auto": {"math": "smol"}}, "variants": {"Auto": {}}}, "is called 'auto' too"),
        ({"routing": {"auto": {"math": "smol"}, "auto_switch": 2}}, "auto_switch"),
        ({"routing": {"models": {"P:latest": ["b"]}}}, "routing.models.P:latest: the group 'b' serves the model 'smol', not this"),
        *(({"engines": {name: {"kind": "fake"}}}, "is no name of a group") for name in ("\u4e16", "a b", "a\nb", "", "x" * 101)),
        ({"variants": {"PHI:latest": {}}}, "variants.PHI:latest: 'phi' is the same name"),
        ({"variants": {"p": {}}}, "variants.p: 'p' is the same name"),
        ({"variants": {"X": {}, "x:latest": {}}}, "variants.x:latest: 'X' is the same name"),
        ({"models": {"phi": {"aliases": [""]}, "smol": {}}}, "models.phi: '' is no name"),
        ({"models": {"phi": {}, "smol": {"aliases": ["a\nb"]}}}, "models.smol: 'a\\nb' is no name"),
        ({"models": {"phi": {}, "smol": {"aliases": ["a b"]}}}, "models.smol: 'a b' is no name"),
    ],
)
def test_names_that_contradict_each_other_are_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _settings(**TWO | changes)
    assert fault in str(refused.value)


def test_the_task_may_choose_a_model_by_its_alias_or_a_variant() -> None:
    settings = _settings(**TWO, variants={"tutor": {"from": "smol"}}, routing={"auto": {"math": "tutor", "general": "P"}})
    assert [settings.routing.find_auto_model(task) for task in (Task.MATH, Task.CODING)] == ["tutor", "P"]
