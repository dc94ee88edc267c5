"""The export of encoders: its cache, folders of other exporters, and files that cannot be used, refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from serve_app.cli import app
from serve_app.config import ModelSettings
from serve_app.engine_config import OnnxEncoderSettings
from serve_app.errors import ModelUnusable
from serve_app.models.encoder import EncoderModel
from serve_app.models.export import derive, needs_checkpoint
from serve_app.models.locate import locate
from tests.contract.test_encoder import ask, cache, compute_reference, draw_inputs, running, write_model

__all__ = ["cache"]  # a fixture, for every test here


async def test_the_cache_keeps_one_form_of_each_content(cache: Path, tmp_path: Path) -> None:
    model, settings = write_model(tmp_path / "model"), OnnxEncoderSettings()
    first = derive(model, settings)
    written = (first / "model.onnx").stat().st_mtime_ns
    assert first.parent == cache / "encoder"
    assert (derive(model, settings), (first / "model.onnx").stat().st_mtime_ns) == (first, written)
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    other = derive(model, settings)
    assert other != first
    (other / "model.onnx.data").write_bytes(b"damaged")
    inputs = draw_inputs(3, 10)
    async with running(model) as engine:  # a damaged form is written again
        found = (await engine.encode(ask(*inputs))).vectors
    np.testing.assert_allclose(found, compute_reference(model, inputs, pooling="cls"), atol=1e-5)


async def test_the_command_writes_a_folder_that_is_used_as_it_is(tmp_path: Path) -> None:
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    done = CliRunner().invoke(app, ["export", "encoder", str(model), "--out", str(out)])
    assert (done.exit_code, str(out) in done.output) == (0, True), done.output
    settings = OnnxEncoderSettings(exported=str(out))
    assert not needs_checkpoint(settings)
    assert derive(model, settings) == out
    inputs = draw_inputs(3, 10)
    async with running(model, exported=str(out)) as engine:
        np.testing.assert_allclose((await engine.encode(ask(*inputs))).vectors, compute_reference(model, inputs), atol=1e-5)
    again = CliRunner().invoke(app, ["export", "encoder", str(model), "--out", str(out)])
    assert again.exit_code == 1
    (out / "config.json").write_text("{}")
    with pytest.raises(ModelUnusable, match=r"config\.json has"):
        derive(model, settings)


@pytest.mark.parametrize("place", ["", "onnx"])
@pytest.mark.parametrize("output", ["last_hidden_state", "token_embeddings"])
async def test_a_graph_of_another_exporter_in_the_models_folder_is_used(place: str, output: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    exported, target = derive(model, OnnxEncoderSettings()), model / place
    target.mkdir(exist_ok=True)
    shutil.copy(exported / "model.onnx.data", target)
    graph = onnx.load(exported / "model.onnx", load_external_data=False)
    types = onnx.helper.make_tensor_value_info("token_type_ids", onnx.TensorProto.INT64, ["batch", "length"])
    graph.graph.input.append(types)
    last = graph.graph.output[0].name
    for node in graph.graph.node:
        node.output[:] = [output if each == last else each for each in node.output]
    graph.graph.output[0].name = output
    onnx.save(graph, target / "model.onnx")
    inputs = draw_inputs(3, 10)
    expected = compute_reference(model, inputs)
    (model / "model.safetensors").unlink()
    assert locate(ModelSettings(path=str(model)), weights=True) == model
    assert derive(model, OnnxEncoderSettings()) == model
    async with running(model) as engine:
        np.testing.assert_allclose((await engine.encode(ask(*inputs))).vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "t5"}, 'model_type in config.json is "t5"'),
        ({"hidden_act": "silu"}, 'hidden_act in config.json is "silu"'),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"num_attention_heads": 3}, "no multiple"),
        ({"hidden_size": "16"}, "hidden_size in config.json is not a positive whole number"),
        ({"intermediate_size": 64}, "intermediate.dense.weight has the shape (32, 16)"),
        ({"num_hidden_layers": 3}, "no tensor encoder.layer.2"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
    ],
)
def test_a_model_that_the_export_cannot_write_is_refused_by_name(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelUnusable) as caught:
        derive(model, OnnxEncoderSettings())
    assert said in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][3, 3] = np.nan
    save_file(weights, model / "model.safetensors")
    with pytest.raises(ModelUnusable, match=r"encoder\.layer\.1\.output\.dense\.weight has values that are not finite"):
        derive(model, OnnxEncoderSettings())


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", '[{"type": "sentence_transformers.models.Dense"}]', "'Dense'"),
        ("modules.json", "{", "modules.json cannot be read"),
        ("modules.json", "{}", "modules.json is not a JSON list"),
        ("config.json", "[]", "config.json is not a JSON object"),
        ("tokenizer.json", "{}", "cannot read tokenizer.json"),
        ("config.json", '{"hidden_size": 16, "vocab_size": 20, "model_type": "bert"}', "has the id 56"),
    ],
)
def test_files_that_the_ingress_cannot_use(file: str, content: str, said: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (model / file).write_text(content)
    with pytest.raises(ModelUnusable) as caught:
        EncoderModel.load("mini", ModelSettings(), model)
    assert said in caught.value.message
    assert str(tmp_path) not in caught.value.message


async def test_pooling_that_is_not_served_needs_a_setting(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", pooling="max_tokens")
    with pytest.raises(ModelUnusable, match="max_tokens"):
        async with running(model):
            pass
    async with running(model, pooling="mean") as engine:
        assert (await engine.encode(ask((5,)))).vectors.shape == (1, 16)


async def test_a_graph_that_is_no_encoders_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    exported = derive(model, OnnxEncoderSettings())
    graph = onnx.load(exported / "model.onnx", load_external_data=False)
    graph.graph.input[1].name = "pixel_values"
    for node in graph.graph.node:
        node.input[:] = ["pixel_values" if each == "attention_mask" else each for each in node.input]
    other = tmp_path / "other"
    shutil.copytree(exported, other, ignore=shutil.ignore_patterns("manifest.json"))
    onnx.save(graph, other / "model.onnx")
    with pytest.raises(ModelUnusable, match="pixel_values"):
        async with running(model, exported=str(other)):
            pass


def test_limits_prompts_and_case_come_from_the_models_files(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", model_type="roberta", pad_token_id=1, type_vocab_size=1)
    assert EncoderModel.load("m", ModelSettings(), model).about.max_tokens == 46  # two positions are those of padding
    (model / "sentence_roberta_config.json").write_text('{"max_seq_length": 32, "do_lower_case": true}')
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "passage"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    about = EncoderModel.load("m", ModelSettings(), model).about
    assert (about.max_tokens, about.prefix, about.lowercase) == (32, "passage: ", True)
