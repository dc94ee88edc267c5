"""Decides which web pages may call, and under which host names the server answers. Pure functions of header texts.

Without API keys, a browser is a way into a server that only its own machine reaches: any page may send requests to
http://localhost, and a page whose host name resolves to 127.0.0.1 (DNS rebinding) may read the answers too. The rules are Ollama's:
local origins and names are allowed, and further ones when they are configured. Knows no HTTP library.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from serve_app.browser_config import BrowserSettings
from serve_app.errors import Forbidden, InvalidRequest

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})
_APPLICATIONS = frozenset({"app", "file", "tauri", "vscode-webview", "vscode-file"})
"""Schemes of pages inside desktop applications."""
_LOCAL_ENDINGS = (".localhost", ".local", ".internal", ".svc")
"""Names below these are never registered on the internet: loopback, multicast DNS, private networks, Kubernetes services."""
_HOST = re.compile(r"(?P<name>\[[0-9A-Za-z:.%]+\]|[\w.~%!$&'()*+,;=-]*)(?::\d{0,5})?", re.ASCII)
"""RFC 3986, section 3.2.2."""
_SHOWN_CHARS = 100


class BrowserRules:
    """The allowed origins and host names: local and configured ones."""

    def __init__(
        self, settings: BrowserSettings, own_names: Iterable[str] = (), asks_for_keys: Callable[[], bool] = lambda: False
    ) -> None:
        """Allow `own_names` too, names under which clients are known to reach this server.

        While `asks_for_keys`, only configured names are checked: a page that was led here has no key.
        """
        self._asks_for_keys = asks_for_keys
        self.any_origin = "*" in settings.origins
        self._origins = tuple(_compile_pattern(each) for each in settings.origins)
        self._checks_every_address = bool(settings.hosts)
        self._hosts = tuple(_compile_pattern(each) for each in settings.hosts)
        self._own_names = {name.lower() for name in (*own_names, socket.gethostname()) if name}

    def allows_origin(self, origin: str, host: str) -> bool:
        """Return whether a page of `origin` may call; an origin equal to the request's own Host may."""
        if origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return True
        return self.any_origin or _is_local_origin(origin) or any(each.fullmatch(origin) for each in self._origins)

    def require_host(self, host: str, arrived_at: str | None) -> None:
        """Raise `Forbidden` unless the server answers to the Host header of a request that arrived at the address `arrived_at`.

        DNS rebinding leads a browser to its own machine, so only requests to a loopback or unknown address are checked, or all of
        them where names are configured. So every name of a network or a cluster keeps working.
        """
        name = parse_host(host)
        if self._checks_every_address or (not self._asks_for_keys() and (arrived_at is None or not _is_remote(arrived_at))):
            known = name in self._own_names or any(each.fullmatch(name) for each in self._hosts)
            if not (known or _is_local_name(name)):
                raise Forbidden(
                    f"this server does not answer to the name '{name[:_SHOWN_CHARS]}' in the Host header; "
                    "if it is yours, add it to browsers.hosts in the configuration"
                )


def refuse_origin(origin: str) -> Forbidden:
    """Return the error for a page that may not call."""
    return Forbidden(
        f"web pages of the origin '{origin[:_SHOWN_CHARS]}' may not use this server; "
        "if they are yours, add it to browsers.origins in the configuration"
    )


def parse_host(host: str) -> str:
    """Return the name in a Host header without port, brackets and final dot, in lower case.

    Raises `InvalidRequest` for anything else than a name.
    """
    match = _HOST.fullmatch(host)
    if match is None:
        raise InvalidRequest("the Host header must be a name or an address, with or without a port", param="host")
    return match["name"].strip("[]").removesuffix(".").lower()


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a configured origin or name; a star matches any text without a slash."""
    return re.compile("[^/]*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE)


def _is_local_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        name = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme in _APPLICATIONS:
        return True
    return parts.scheme in ("http", "https") and (name in _LOCAL_NAMES or name.endswith(".localhost"))


def _is_local_name(name: str) -> bool:
    """Return whether nobody can register `name` to lead it here: empty, an address, without a dot, or with a private ending."""
    return "." not in name or name.endswith(_LOCAL_ENDINGS) or _parse_address(name) is not None


def _parse_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))  # 127.1
    except OSError:
        return None


def _is_remote(arrived_at: str) -> bool:
    """Return whether other machines reach this address of ours."""
    address = _parse_address(arrived_at)
    if address is None:
        return False
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (inner or address).is_loopback
