"""Reads the chat templates and the names of special tokens from a model's folder, as `transformers` reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.chat.vocabulary import read_json
from serve_app.errors import ModelUnusable

TEMPLATE_FILE, SETTINGS_FILE, PROCESSOR_FILE = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"
_MORE_TEMPLATES = "additional_chat_templates"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_CHARS = 256 << 10


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """The text of a model's chat templates."""

    file: str
    """The file that holds them."""
    default: str
    tool_use: str
    """The template of conversations with tools; often the default."""


def find_template(folder: Path) -> TemplateSource | None:
    """Return a folder's chat templates, None without any; raises `ModelUnusable` for files that hold them in no known form.

    A file of its own wins over the field in tokenizer_config.json.
    """
    named: dict[str, str] = {}
    file = ""
    if (folder / TEMPLATE_FILE).is_file():
        file, named = TEMPLATE_FILE, {"default": _read_text(folder / TEMPLATE_FILE)}
        named |= {path.stem: _read_text(path) for path in sorted((folder / _MORE_TEMPLATES).glob("*.jinja"))}
    for name in (SETTINGS_FILE, PROCESSOR_FILE):
        if not named:
            file, named = name, _read_field(name, (read_json(folder, name) or {}).get("chat_template"))
    if not named:
        return None
    if "default" not in named:
        raise ModelUnusable(f"{file} has the chat templates {', '.join(sorted(named))[:200]}, but none called default; add one")
    if max(map(len, named.values())) > MAX_CHARS:
        raise ModelUnusable(f"{file} has a chat template of more than {MAX_CHARS} characters; shorten it")
    return TemplateSource(file, named["default"], named.get("tool_use", named["default"]))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"{path.name} cannot be read as text; fetch the model again") from error


def _read_field(file: str, value: Any) -> dict[str, str]:
    """Return the templates of a field by name: it holds one, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        return {str(entry["name"]): _require_text(entry["template"]) for entry in value}
    except (KeyError, TypeError) as error:
        raise ModelUnusable(
            f"{file}: chat_template is neither a template nor a list of named ones; fetch the model again"
        ) from error


def _require_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a template is text")
    return value


def read_special_tokens(folder: Path) -> Mapping[str, str]:
    """Return the special tokens that templates may name, such as `bos_token`, by these names."""
    tokens: dict[str, str] = {}
    for file in ("special_tokens_map.json", SETTINGS_FILE):
        content = read_json(folder, file) or {}
        for name in _SPECIAL_TOKENS:
            value = content.get(name)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[name] = text
    return tokens
