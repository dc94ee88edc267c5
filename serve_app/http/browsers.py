"""Which web pages may call, and under which names the server answers: the decisions, as pure functions of header texts.

While there are no API keys, a browser is the way into a server that only its own machine reaches: any page may send requests to
http://localhost, and a page whose own name is made to resolve to 127.0.0.1 (DNS rebinding) may read the answers too. The rules are
Ollama's: local origins and local names are allowed, others when they are configured. Knows no HTTP library.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from serve_app.config import BrowserSettings
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
    """The configured origins and names beside the local ones."""

    def __init__(self, settings: BrowserSettings, own_names: Iterable[str] = ()) -> None:
        """Allow `own_names` too: names under which this server is known to be reached."""
        self.any_origin = "*" in settings.origins
        self._origins = tuple(_pattern(each) for each in settings.origins)
        self._everywhere = bool(settings.hosts)
        self._hosts = tuple(_pattern(each) for each in settings.hosts)
        self._own_names = {name.lower() for name in (*own_names, socket.gethostname()) if name}

    def allows_origin(self, origin: str, host: str) -> bool:
        """Return whether a page of `origin` may call; one that came from the server's own Host may."""
        if origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return True
        return self.any_origin or _is_local_origin(origin) or any(each.fullmatch(origin) for each in self._origins)

    def require_host(self, host: str, arrived_at: str | None) -> None:
        """Raise `Forbidden` unless the server answers to the Host header of a request that came to the address `arrived_at`.

        A rebound name leads a browser to its own machine, so only requests to a loopback address are checked, or to one that is not
        known; all of them where names are configured. That keeps every name of a network or a cluster working.
        """
        name = parse_host(host)
        if self._everywhere or arrived_at is None or not _is_remote(arrived_at):
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

    Raises `InvalidRequest` for what is no name.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        raise InvalidRequest("the Host header must be a name or an address, with or without a port", param="host")
    return found["name"].strip("[]").removesuffix(".").lower()


def _pattern(written: str) -> re.Pattern[str]:
    """Return the compiled form of a configured origin or name: a star stands for anything but a slash."""
    return re.compile("[^/]*".join(map(re.escape, written.split("*"))), re.IGNORECASE)


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
    """Return whether nobody can register `name` and lead it here: none, an address, a name without a dot, or a private ending."""
    return "." not in name or name.endswith(_LOCAL_ENDINGS) or _address(name) is not None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))  # 127.1
    except OSError:
        return None


def _is_remote(arrived_at: str) -> bool:
    """Return whether a local address of ours is one that other machines reach."""
    address = _address(arrived_at)
    if address is None:
        return False
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (inner or address).is_loopback
