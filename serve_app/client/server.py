"""A running application over HTTP: JSON in, JSON or lines of JSON out."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator
from typing import Any

JsonObject = dict[str, Any]
DEFAULT_URL = "http://127.0.0.1:8000"


class ClientError(Exception):
    """What went wrong, in words for the person at the keyboard."""


class Server:
    """The application at one address."""

    def __init__(self, url: str) -> None:
        """Take an address such as http://host:8000, or host:8000."""
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")

    def ask(self, path: str, body: JsonObject | None = None, *, method: str | None = None) -> JsonObject:
        """Return the answer, {} for an empty one; raises `ClientError`."""
        with self._open(path, body, method) as response:
            raw = _read(response)
        answer: JsonObject = _parsed(raw) if raw else {}
        return answer

    def lines(self, path: str, body: JsonObject) -> Generator[JsonObject, None, None]:
        """Yield the lines of a streamed answer as they come; raises `ClientError`, also for an error midway.

        Closing the iterator closes the connection, which ends the generation.
        """
        with self._open(path, body, None) as response:
            while raw := _read(response, line=True):
                told = _parsed(raw)
                if "error" in told:
                    raise ClientError(str(told["error"]))
                yield told

    def _open(self, path: str, body: JsonObject | None, method: str | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        method = method or ("GET" if body is None else "POST")
        try:
            request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(_fault(error)) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ClientError(f"nothing answers at {self.url}; start it with `make serve`, or name another with --url") from error


def _read(response: Any, *, line: bool = False) -> bytes:
    try:
        raw: bytes = response.readline() if line else response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ClientError("the connection broke off before the answer ended") from error
    return raw


def _parsed(raw: bytes) -> JsonObject:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise ClientError("what answers there is no phi-serve: its answer is not JSON") from error
    return value if isinstance(value, dict) else {}


def _fault(error: urllib.error.HTTPError) -> str:
    """Return the server's own words, or the status where it has none."""
    try:
        told = json.loads(error.read()).get("error")
    except (OSError, ValueError, AttributeError):
        told = None
    if isinstance(told, dict):
        told = told.get("message")
    return str(told) if told else f"the server answered {error.code} {error.reason}"
