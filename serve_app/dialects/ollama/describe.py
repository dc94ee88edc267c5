"""What Ollama's API tells about a model. Pure."""

from serve_app import parameters as ollama
from serve_app.chat.template import AS_GO_TEMPLATE
from serve_app.dialects.base import JsonObject
from serve_app.dialects.ollama.shapes import moment
from serve_app.models import modelfile
from serve_app.models.catalog import Catalog
from serve_app.models.names import tagged
from serve_app.models.variant import Variant
from serve_app.models.weights import Weights

_CAPABILITIES = ("completion", "tools")


def details(catalog: Catalog, model: Variant) -> JsonObject:
    """Return a model's `details`."""
    weights = catalog.weights
    return {
        "parent_model": tagged(model.parent) if model.parent else "",
        "format": "safetensors",
        "family": weights.family,
        "families": [weights.family],
        "parameter_size": weights.parameter_size,
        "quantization_level": weights.stored_precision,
    }


def summary(catalog: Catalog, model: Variant) -> JsonObject:
    """Return a model's entry in the list."""
    return {
        "name": tagged(model.name),
        "model": tagged(model.name),
        "modified_at": moment(model.modified),
        "size": catalog.weights.stored_bytes,
        "digest": model.digest(catalog.weights.identity),
        "details": details(catalog, model),
    }


def show(catalog: Catalog, model: Variant, context_length: int) -> JsonObject:
    """Return everything about a model; `context_length` is what a group has, in tokens, and not what the weights could have."""
    settings = model.settings
    parameters = settings.parameters | ({modelfile.TASK: settings.task} if settings.task else {})
    turns = [(turn.role, turn.content) for turn in settings.messages]
    text = modelfile.write(
        model.parent or model.name, system=settings.system, template=settings.template, messages=turns, parameters=parameters
    )
    told: JsonObject = {
        "license": "\n".join(settings.license),
        "modelfile": f"# Derives {tagged(model.name)} anew: phi-serve create NAME -f this-file\n{text}",
        "parameters": "\n".join(f"{name:<30} {value}" for name, value in ollama.as_lines(parameters)),
        "template": settings.template or AS_GO_TEMPLATE,
        "system": settings.system,
        "details": details(catalog, model),
        "model_info": _info(catalog.weights, context_length),
        "capabilities": [*_CAPABILITIES, *(("thinking",) if catalog.settings.think_tags else ())],
        "modified_at": moment(model.modified),
    }
    if turns:
        told["messages"] = [{"role": role, "content": content} for role, content in turns]
    return told


def _info(weights: Weights, context_length: int) -> JsonObject:
    config, family = weights.config, weights.family
    heads = int(config.get("num_attention_heads", 1))
    info = {
        "general.architecture": family,
        "general.parameter_count": weights.parameters,
        f"{family}.context_length": context_length,
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
