"""What a configuration says about where the application will answer and of which groups it consists."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serve_app.config import AppSettings

_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_DEFAULT_PORT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An application that is to be started, or that was."""

    config: Path
    port: int
    url: str
    """Where it answers on this machine."""
    public_url: str
    """The URL that is shown to people."""
    ollama_url: str
    """Where Ollama's clients find it."""
    groups: Mapping[str, str]
    """What each group is, by its name: two starts with the same text take about the same time."""
    keys_file: str
    """The file of keys, beside which operators sign in."""
    asks_for_keys: bool
    """Whether requests need a key."""
    example: str
    """A command that asks the application something."""


def describe_target(config: Path, text: str) -> Target:
    """Return what a valid configuration describes; only the first application counts."""
    document = yaml.safe_load(text)
    application = document["applications"][0]
    settings = AppSettings.model_validate(application["args"])
    options = document.get("http_options") or {}
    port = int(options.get("port", _DEFAULT_PORT))
    scheme = "https" if options.get("ssl_certfile") else "http"
    host = str(options.get("host", "127.0.0.1"))
    url = f"{scheme}://{_bracket(_LOCAL.get(host, host))}:{port}"
    is_shown = "public_url" in application["args"]
    public = settings.public_url.rstrip("/") if is_shown else f"{scheme}://localhost:{port}"
    second = settings.ollama_port
    keys = Path(settings.access.keys_file).expanduser()
    asks_for_keys = keys.exists() and not settings.access.open
    return Target(
        config=config.resolve(),
        port=port,
        url=url,
        public_url=public,
        ollama_url=public if second is None else f"http://{_bracket(_LOCAL.get(second.host, second.host))}:{second.port}",
        groups={name: _identify(settings, name) for name in settings.engines},
        keys_file=settings.access.keys_file,
        asks_for_keys=asks_for_keys,
        example=_build_example(settings, public, asks_for_keys=asks_for_keys),
    )


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _identify(settings: AppSettings, group: str) -> str:
    engine = settings.engines[group]
    weights = getattr(engine, "precision", None) or getattr(engine, "dtype", None) or "-"
    return f"{group} {engine.kind} {settings.models[settings.model_of(group)].path} {weights}"


def _build_example(settings: AppSettings, url: str, *, asks_for_keys: bool) -> str:
    """Return a short curl command; curl adds http:// itself."""
    model = settings.default_model
    path, body = "/reasoning", {"prompt": "What is 12 * 12?"}
    if model in settings.embedding_models:
        path, body = "/v1/embeddings", {"model": model, "input": "Hello"}
    key = '-H "authorization: Bearer $PHI_SERVE_API_KEY" ' if asks_for_keys else ""
    shown: Any = json.dumps(body, allow_nan=False, separators=(",", ":"))
    return f"curl {url.removeprefix('http://')}{path} {key}-d '{shown}'"
