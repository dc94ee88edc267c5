"""Sends requests to a running application over HTTP: JSON in, JSON or lines of JSON out."""

import http.client
import ipaddress
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from serve_app.access.operator import read_token

JsonObject = dict[str, Any]
_HOST, _PORT = "127.0.0.1", 8000
DEFAULT_URL = f"http://{_HOST}:{_PORT}"
KEY_VARIABLES = ("PHI_SERVE_API_KEY", "OLLAMA_API_KEY")
"""Environment variables that may hold the key, first one first. On a command line everybody on the machine could read it."""
_ADDRESS = re.compile(r"(?:(https?)://)?(\[[^\[\]/]*\]|[^\[\]/:]*)(?::(\d{1,5}))?(/.*)?", re.IGNORECASE)
_WILDCARD_HOSTS = {"0.0.0.0": _HOST, "[::]": "[::1]"}
"""Wildcard addresses that servers listen on, and the loopback addresses that reach them."""


class ClientError(Exception):
    """A failure, described for the user."""


class Server:
    """The application at one address."""

    def __init__(self, url: str) -> None:
        """Use an address as `parse_address` takes it; raises `ClientError` for anything else."""
        self.url = parse_address(url)

    def request(self, path: str, body: JsonObject | None = None, *, method: str | None = None) -> JsonObject:
        """Return the answer, {} for an empty one; raises `ClientError`."""
        with self._open(path, body, method) as response:
            raw = _read(response)
        answer: JsonObject = _parse(raw) if raw else {}
        return answer

    def probe(self, path: str, *, limit_s: float) -> tuple[int, JsonObject] | None:
        """Return the status of an answer and what it says, {} where that is not JSON; None where nothing answers in time."""
        request = urllib.request.Request(self.url + path, headers=self._authorize())
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as response:
                return response.status, _parse_leniently(response.read())
        except urllib.error.HTTPError as error:
            with error:
                try:
                    return error.code, _parse_leniently(error.read())
                except (OSError, http.client.HTTPException):
                    return None
        except (OSError, ValueError, http.client.HTTPException):
            return None

    def stream(self, path: str, body: JsonObject) -> Generator[JsonObject, None, None]:
        """Yield the lines of a streamed answer as they arrive; raises `ClientError`, also for an error in the stream.

        Closing the iterator closes the connection, which ends the generation.
        """
        with self._open(path, body, None) as response:
            while raw := _read(response, line=True):
                line = _parse(raw)
                if "error" in line:
                    raise ClientError(str(line["error"]))
                yield line

    def _open(self, path: str, body: JsonObject | None, method: str | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        method = method or ("GET" if body is None else "POST")
        try:
            headers = {"content-type": "application/json"} | self._authorize()
            request = urllib.request.Request(self.url + path, data, headers, method=method)
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(_explain_failure(error)) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ClientError(f"nothing answers at {self.url}; start it with `make serve`, or name another with --url") from error

    def _authorize(self) -> dict[str, str]:
        """Return the header with the key in the environment, and the operator's secret where the server is on this machine."""
        secret = read_token() if _is_local(self.url) else ""
        return authorize() | ({"x-operator-token": secret} if secret.isascii() and secret.isprintable() and secret else {})


def authorize() -> dict[str, str]:
    """Return the header with the key in the environment, if there is one."""
    key = next((found for name in KEY_VARIABLES if (found := os.environ.get(name, "").strip())), "")
    return {"authorization": f"Bearer {key}"} if key.isascii() and key.isprintable() and key else {}


def _is_local(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def parse_address(address: str) -> str:
    """Return the URL of an address as Ollama's OLLAMA_HOST takes it: `host`, `host:port`, `:port`, `::1`, `http://host/path`.

    Missing parts are those of the default configuration; with a scheme the default port is the scheme's, as in every URL.
    Raises `ClientError` for malformed addresses.
    """
    cleaned = address.strip(" \t\r\n\"'")
    with suppress(ValueError):  # not a bare IPv6 address: a name, brackets, or a port
        cleaned = f"[{ipaddress.IPv6Address(cleaned)}]"
    match = _ADDRESS.fullmatch(cleaned)
    port = int(match[3]) if match and match[3] else None
    if match is None or any(char.isspace() for char in cleaned) or (port is not None and not 0 < port < 1 << 16):
        raise ClientError(f"'{address[:100]}' is not an address; write host, host:port or http://host:port")
    scheme, host, path = (match[1] or "http").lower(), match[2] or _HOST, (match[4] or "").rstrip("/")
    if port is None and not match[1]:
        port = _PORT
    return f"{scheme}://{_WILDCARD_HOSTS.get(host, host)}{'' if port is None else f':{port}'}{path}"


def _read(response: Any, *, line: bool = False) -> bytes:
    try:
        raw: bytes = response.readline() if line else response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ClientError("the connection was lost before the answer ended") from error
    return raw


def _parse(raw: bytes) -> JsonObject:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise ClientError("the server there is not phi-serve: its answer is not JSON") from error
    return value if isinstance(value, dict) else {}


def _parse_leniently(raw: bytes) -> JsonObject:
    try:
        return _parse(raw)
    except ClientError:
        return {}


def _explain_failure(error: urllib.error.HTTPError) -> str:
    """Return the server's error message, or the status where it has none."""
    try:
        message = json.loads(error.read()).get("error")
    except (OSError, ValueError, AttributeError):
        message = None
    if isinstance(message, dict):
        message = message.get("message")
    if message and error.code == HTTPStatus.UNAUTHORIZED:
        message = f"{message}. These commands take it from {' or '.join(KEY_VARIABLES)} in the environment"
    return str(message) if message else f"the server answered {error.code} {error.reason}"
