"""Speaks to Serve's part of Ray's dashboard: which applications are deployed, and a new configuration for them."""

import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from serve_app.client.server import ClientError, JsonObject

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_PATH = "/api/serve/applications/"


class RayDashboard:
    """The dashboard of one Ray."""

    def __init__(self, address: str, *, limit_s: float = 30.0) -> None:
        """Use the dashboard at a URL, and wait so many seconds for each answer."""
        self.address = address.rstrip("/")
        self._limit_s = limit_s

    def read(self) -> JsonObject:
        """Return what Serve has deployed and how it is; raises `ClientError`."""
        return self._request("GET", None)

    def deploy(self, config: JsonObject) -> None:
        """Give Serve a whole new configuration; applications that it does not name are deleted. Raises `ClientError`."""
        self._request("PUT", config)

    def _request(self, method: str, body: JsonObject | None) -> JsonObject:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        headers = {"content-type": "application/json"} | _authorize()
        request = urllib.request.Request(self.address + _PATH, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self._limit_s) as response:
                raw = response.read()
            found: Any = json.loads(raw) if raw else {}
        except urllib.error.HTTPError as error:
            with error:
                raise ClientError(_explain(error, self.address)) from error
        except (OSError, http.client.HTTPException) as error:
            raise ClientError(f"Ray's dashboard does not answer at {self.address}; name another with --address") from error
        except ValueError as error:
            raise ClientError(f"what answers at {self.address} is not Ray's dashboard") from error
        return found if isinstance(found, dict) else {}


def _explain(error: urllib.error.HTTPError, address: str) -> str:
    text = error.read().decode(errors="replace").strip()
    if error.code in (401, 403):
        return f"Ray's dashboard at {address} asks for Ray's token: set RAY_AUTH_TOKEN, or run as the user who started Ray"
    return f"Serve refused: {text.splitlines()[-1] if text else error.reason}"


def _authorize() -> dict[str, str]:
    """Return the header with Ray's own token, which Ray takes from these places too."""
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not token:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return {}
    return {"authorization": f"Bearer {token}"}
