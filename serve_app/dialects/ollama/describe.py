"""Shows models in the shapes of Ollama's API. Pure."""

from serve_app import parameters as ollama
from serve_app.dialects.base import JsonObject
from serve_app.dialects.ollama import modelfile
from serve_app.dialects.ollama.shapes import format_time
from serve_app.model_info import ModelInfo
from serve_app.model_names import add_tag


def show_details(model: ModelInfo) -> JsonObject:
    """Return a model's `details`."""
    return {
        "parent_model": add_tag(model.parent) if model.parent else "",
        "format": "safetensors",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.stored_precision,
    }


def show_summary(model: ModelInfo) -> JsonObject:
    """Return a model's entry in the list."""
    return {
        "name": add_tag(model.name),
        "model": add_tag(model.name),
        "modified_at": format_time(model.modified),
        "size": model.stored_bytes,
        "digest": model.digest,
        "details": show_details(model),
    }


def show_model(model: ModelInfo) -> JsonObject:
    """Return everything about a model; its context length is that of a group, not that of the weights."""
    settings = model.settings
    parameters = settings.parameters | ({modelfile.TASK: settings.task} if settings.task else {})
    turns = [(turn.role, turn.content) for turn in settings.messages]
    text = modelfile.write(
        model.parent or model.name, system=settings.system, template=settings.template, messages=turns, parameters=parameters
    )
    shown: JsonObject = {
        "license": "\n".join(settings.license),
        "modelfile": f"# Derives {add_tag(model.name)} anew: phi-serve create NAME -f this-file\n{text}",
        "parameters": "\n".join(f"{name:<30} {value}" for name, value in ollama.write_values(parameters)),
        "template": model.template,
        "system": settings.system,
        "details": show_details(model),
        "model_info": _info(model),
        "capabilities": list(model.capabilities),
        "modified_at": format_time(model.modified),
    }
    if turns:
        shown["messages"] = [{"role": role, "content": content} for role, content in turns]
    return shown


def _info(model: ModelInfo) -> JsonObject:
    config, family = model.config, model.family
    heads = int(config.get("num_attention_heads", 1))
    info = {
        "general.architecture": family,
        "general.parameter_count": model.parameters,
        f"{family}.context_length": model.context_length,
        f"{family}.rope.scaling.original_context_length": config.get("original_max_position_embeddings"),
        f"{family}.embedding_length": config.get("hidden_size"),
        f"{family}.block_count": config.get("num_hidden_layers"),
        f"{family}.feed_forward_length": config.get("intermediate_size"),
        f"{family}.attention.head_count": heads,
        f"{family}.attention.head_count_kv": config.get("num_key_value_heads") or heads,
        f"{family}.attention.layer_norm_rms_epsilon": config.get("rms_norm_eps"),
        f"{family}.rope.freq_base": config.get("rope_theta"),
        f"{family}.vocab_size": config.get("vocab_size"),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.eos_token_id": config.get("eos_token_id"),
    }
    return {name: value for name, value in info.items() if value is not None}
