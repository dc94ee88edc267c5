"""Checks what the configuration refers to outside itself: models' files, exported folders, packages, templates, ports.

Reads files and probes local ports; starts nothing and downloads nothing.
"""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from serve_app.chat import go_template
from serve_app.config import AppSettings
from serve_app.engine_config import EngineSettings, LlamaCppSettings
from serve_app.engines.registry import explain_missing
from serve_app.errors import ServeError
from serve_app.models import manifest
from serve_app.models.locate import EMBEDDED
from serve_app.types import InvalidValue
from serve_app.validation.findings import Finding, Place
from serve_app.validation.hub import locate_cached
from serve_app.validation.text import Document

Report = Callable[[Place, str, str], Finding]
"""Returns a finding at a place below `args`."""


def check_surroundings(document: Document, place: Place, settings: AppSettings, *, has_files: bool = True) -> Iterator[Finding]:
    """Yield what is missing or does not fit around the configuration; `place` is that of `args`.

    `has_files`: models' files are on this machine if anywhere; else only what is here is looked at.
    """

    def report(inner: Place, problem: str, fix: str) -> Finding:
        return document.report((*place, *inner), problem, fix)

    folders = {name: _find_folder(model.path) for name, model in settings.models.items()}
    for name, model in settings.models.items():
        if has_files or folders[name] is not None:
            yield from _check_model(report, ("models", name, "path"), model.path, folders[name])
    for name, group in settings.engines.items():
        config = _read_config(folders[settings.model_of(name)])
        yield from _check_context(report, ("engines", name, "max_model_len"), group, config)
        if has_files:
            yield from _check_export(report, name, group)
    for name, variant in settings.variants.items():
        try:
            go_template.parse(variant.template)
        except (ServeError, InvalidValue) as error:
            yield report(("variants", name, "template"), f"the template cannot be used: {error}", "correct it, or leave it out")


def check_installed(document: Document, place: Place, settings: AppSettings) -> Iterator[Finding]:
    """Yield the groups whose engine is not installed in this environment; `place` is that of `args`."""
    for name, group in settings.engines.items():
        if missing := explain_missing(name, group):
            problem, _, fix = missing.partition(": ")
            yield document.report((*place, "engines", name, "kind"), problem, fix)


def check_ports(document: Document, settings: list[tuple[Place, AppSettings]]) -> Iterator[Finding]:
    """Yield the ports that somebody else listens on."""
    options = document.value.get("http_options") if isinstance(document.value, dict) else None
    options = options if isinstance(options, dict) else {}
    wanted: list[tuple[Place, Any, Any]] = [(("http_options", "port"), options.get("host", "127.0.0.1"), options.get("port", 8000))]
    for place, each in settings:
        if each.ollama_port is not None:
            wanted.append(((*place, "ollama_port", "port"), each.ollama_port.host, each.ollama_port.port))
    for place, host, port in wanted:
        if isinstance(port, int) and isinstance(host, str) and _is_taken(host, port):
            yield document.report(place, f"port {port} is in use", "stop what listens there, or choose another port")


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _find_folder(path: str) -> Path | None:
    """Return the folder of a model's files on this machine; None where there is none."""
    if path == "embedded":
        return EMBEDDED
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else locate_cached(path)


def _check_model(report: Report, place: Place, path: str, folder: Path | None) -> Iterator[Finding]:
    is_hub_id = not path.startswith((".", "/", "~")) and path.count("/") == 1
    if folder is None and not is_hub_id and path != "embedded":
        yield report(place, f"there is no folder {path!r}", "write `embedded`, a local folder, or a hub id like owner/name")
    elif folder is None and not _reaches_hub():
        fix = f"run `hf download {path}` while the hub can be reached, or give a local folder"
        yield report(place, f"the hub's cache has nothing of {path}, and the hub cannot be reached", fix)
    elif folder is not None and not (folder / "config.json").exists():
        yield report(place, f"{path!r} holds no config.json", "give a folder in Hugging Face layout")


def _reaches_hub() -> bool:
    from huggingface_hub import constants  # slow to import, and needed for hub ids only

    if constants.HF_HUB_OFFLINE:
        return False
    host = constants.ENDPOINT.partition("//")[2].partition("/")[0].partition(":")[0]
    try:
        with socket.create_connection((host, 443), timeout=3):
            return True
    except OSError:
        return False


def _read_config(folder: Path | None) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder is not None else {}
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _check_context(report: Report, place: Place, group: EngineSettings, config: dict[str, Any]) -> Iterator[Finding]:
    longest = config.get("max_position_embeddings")
    if isinstance(longest, int) and group.max_model_len > longest:
        yield report(place, f"max_model_len is {group.max_model_len}, and the model has {longest}", f"write {longest} or less")


def _check_export(report: Report, name: str, group: EngineSettings) -> Iterator[Finding]:
    given = getattr(group, "exported", None)
    place: Place = ("engines", name, "exported")
    if given is not None:
        folder = Path(given).expanduser()
        about = _read_about(folder)
        wanted = getattr(group, "precision", None)
        if not folder.is_dir():
            yield report(place, f"there is no folder {given!r}", "export the model (`phi-serve export`), or leave `exported` out")
        elif wanted is not None and about.get("precision", wanted) != wanted:
            problem = f"the folder holds {about['precision']} weights, and precision is {wanted}"
            yield report(place, problem, f"write precision: {about['precision']}, or export again")
    if isinstance(group, LlamaCppSettings) and group.gguf is not None and not Path(group.gguf).expanduser().is_file():
        yield report(("engines", name, "gguf"), f"there is no file {group.gguf!r}", "give a GGUF file, or leave `gguf` out")


def _read_about(folder: Path) -> dict[str, str]:
    try:
        return manifest.read_about(folder)
    except (OSError, ValueError, ServeError):
        return {}
