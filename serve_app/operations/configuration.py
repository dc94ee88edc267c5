"""The effective configuration, and how a file differs from it. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.config import AppSettings
from serve_app.errors import InvalidRequest
from serve_app.operations.base import JsonObject

_SHOWN_FAULTS = 5


def show_settings(settings: AppSettings) -> JsonObject:
    """Return every setting with its value, defaults included. Secrets are never settings."""
    shown: JsonObject = settings.model_dump(mode="json")
    return shown


def compare(settings: AppSettings, text: str) -> list[JsonObject]:
    """Return the settings that a configuration file would change, by path; raises `InvalidRequest` for an unusable file."""
    try:
        args = yaml.safe_load(text)["applications"][0]["args"]
        wanted = AppSettings.model_validate(args)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"the file is not YAML: {str(error).splitlines()[0]}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise InvalidRequest("the file does not have the structure of serve_config.yaml: applications, each with args") from error
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)[:_SHOWN_FAULTS]
        listed = "; ".join(f"args.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
        raise InvalidRequest(f"the file cannot be used: {listed}") from error
    running, file = dict(_flatten(show_settings(settings))), dict(_flatten(show_settings(wanted)))
    return [
        {"path": path, "running": running.get(path), "file": file.get(path)}
        for path in sorted(running.keys() | file.keys())
        if running.get(path) != file.get(path)
    ]


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value
