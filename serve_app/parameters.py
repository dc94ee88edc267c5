"""Checks Ollama's generation parameters and translates them into `Sampling`.

Model variants and Ollama's `options` use the same names, so both are checked and translated here. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from serve_app.types import MAX_TOKENS, InvalidValue, Sampling

Value: TypeAlias = bool | int | float | str | list[str]

_FLOATS = frozenset({"temperature", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty"})
_INTEGERS = frozenset({"top_k", "seed", "num_predict", "repeat_last_n", "num_ctx"})
_IDLE_FLOATS = frozenset({"typical_p", "tfs_z", "mirostat_tau", "mirostat_eta"})
_IDLE_INTEGERS = frozenset({"num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_gqa", "mirostat"})
_IDLE_SWITCHES = frozenset(
    {"numa", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mmap", "use_mlock", "embedding_only", "penalize_newline"}
)
IDLE = _IDLE_FLOATS | _IDLE_INTEGERS | _IDLE_SWITCHES
"""Known parameters without effect: the group's configuration decides, or no engine has such a sampler."""
KNOWN = _FLOATS | _INTEGERS | IDLE | {"stop"}
SHORTEST_PROMPT_TOKENS = 4
"""Tokens of the shortest chat in most formats: the user's mark, a token, the end of the turn, the assistant's mark."""
_MAX_STOPS = 16
_MAX_NUMBER = 1e300


def check_parameter(name: str, value: object) -> Value:
    """Return a parameter's value in its own type; raises `InvalidValue` for unknown names and wrong types.

    As in Ollama, an integer may be given as a float, and a list of one string as the string.
    """
    if name == "stop":
        return _check_stops(value)
    if name in _FLOATS or name in _IDLE_FLOATS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidValue(name, "must be of type float")
        return _require_finite(name, value)
    if name in _INTEGERS or name in _IDLE_INTEGERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidValue(name, "must be of type integer")
        return int(_require_finite(name, value)) if isinstance(value, float) else value
    if name in _IDLE_SWITCHES:
        if not isinstance(value, bool):
            raise InvalidValue(name, "must be of type boolean")
        return value
    raise InvalidValue(name, "is no known parameter")


def parse_parameter(name: str, text: str) -> Value:
    """Parse the value that a Modelfile writes as `text`; raises `InvalidValue` as `check_parameter` does."""
    if name == "stop":
        return _check_stops(text)
    if name in _IDLE_SWITCHES:
        if text.lower() not in ("true", "false", "1", "0"):
            raise InvalidValue(name, "must be true or false")
        return text.lower() in ("true", "1")
    if name not in KNOWN:
        raise InvalidValue(name, "is no known parameter")
    kind = "integer" if name in _INTEGERS or name in _IDLE_INTEGERS else "float"
    try:
        number: int | float = int(text) if kind == "integer" else float(text)
    except ValueError as error:
        raise InvalidValue(name, f"must be of type {kind}") from error
    return check_parameter(name, number)


def read_stops(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stop strings among checked parameters."""
    return tuple(parameters.get("stop", ()))


def read_window(parameters: Mapping[str, Any]) -> int | None:
    """Return the context in tokens among checked parameters; None without `num_ctx`, or where it is below 1."""
    requested: int = parameters.get("num_ctx", 0)
    return requested if requested > 0 else None


def read_sampling_fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `Sampling` fields that checked parameters set.

    `num_predict` below 1 and negative seeds mean "none"; `top_k` and `top_p` outside their range are off; `repeat_last_n: 0` turns
    the repetition penalty off. Any other value of it means the whole text: no engine here has such a window.
    """
    fields: dict[str, Any] = {
        name: parameters[name] for name in ("temperature", "min_p", "presence_penalty", "frequency_penalty") if name in parameters
    }
    if "top_p" in parameters:
        fields["top_p"] = min(parameters["top_p"], 1.0)
    if "top_k" in parameters:
        fields["top_k"] = max(parameters["top_k"], 0)
    if "seed" in parameters:
        fields["seed"] = None if parameters["seed"] < 0 else parameters["seed"]
    if "num_predict" in parameters:
        requested = parameters["num_predict"]
        fields["max_tokens"] = None if requested < 1 else min(requested, MAX_TOKENS)
    if "repeat_penalty" in parameters:
        fields["repetition_penalty"] = parameters["repeat_penalty"]
    if parameters.get("repeat_last_n") == 0:
        fields["repetition_penalty"] = 1.0
    return fields


NAMES: Mapping[str, str] = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}
"""Ollama's names of `Sampling` fields, where they differ."""


def require_usable(parameters: Mapping[str, Any]) -> None:
    """Raise `InvalidValue` naming the parameter when every request with these checked parameters would be refused."""
    try:
        Sampling(**read_sampling_fields(parameters))
    except InvalidValue as error:
        raise InvalidValue(NAMES.get(error.field, error.field), error.fault) from error
    requested = read_window(parameters)
    if requested is not None and requested <= SHORTEST_PROMPT_TOKENS:
        raise InvalidValue(
            "num_ctx", f"must be above {SHORTEST_PROMPT_TOKENS}, the tokens of the shortest prompt, or 0 for no bound"
        )


def write_values(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) per value, a repeated name per stop string, texts as a Modelfile writes them."""
    lines = []
    for name, value in sorted(parameters.items()):
        for item in value if isinstance(value, list | tuple) else [value]:
            shown = str(item).lower() if isinstance(item, bool) else str(item)
            lines.append((name, f'"{shown}"' if isinstance(item, str) else shown))
    return lines


def _check_stops(value: object) -> list[str]:
    items: Sequence[object] = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else [None]
    texts = [text for text in items if isinstance(text, str)]
    if len(texts) < len(items):
        raise InvalidValue("stop", "must be of type array of strings")
    if len(texts) > _MAX_STOPS or any(not 0 < len(text) <= 1000 for text in texts):
        raise InvalidValue("stop", f"takes at most {_MAX_STOPS} strings of 1 to 1000 characters")
    return texts


def _require_finite(name: str, value: float) -> float:
    if not -_MAX_NUMBER <= value <= _MAX_NUMBER:  # written so that NaN and integers beyond all floats fail too
        raise InvalidValue(name, "must be a finite number")
    return value
