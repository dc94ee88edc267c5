"""Settings of where the server listens and which web pages may call: `args.browsers` and `args.ollama_port`. Knows no HTTP."""

import re

from pydantic import Field, field_validator

from serve_app.engine_config import Settings


class BrowserSettings(Settings):
    """Web pages that may call, and host names that the server answers to, beside the local ones."""

    origins: tuple[str, ...] = ()
    """Origins of web pages that may call, e.g. https://chat.example.com. `*` alone allows every page; inside an origin it stands
    for any text without a slash. Always allowed are localhost and loopback addresses on any port, and pages inside desktop
    applications (app://, file://, tauri://, vscode-webview://)."""
    hosts: tuple[str, ...] = ()
    """Names that may stand in the Host header, e.g. llm.example.com or *.example.com. Always allowed: localhost, addresses, the
    machine's own name, names without a dot or below .local, .internal, .svc. Only requests to a loopback address are checked
    (DNS rebinding leads there); with names here, all requests are checked."""

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for origin in given:
            if origin not in ("*", "null") and not re.fullmatch(r"[A-Za-z*][\w+.*-]*://[^/\s]*", origin):
                raise ValueError(f"browsers.origins: {origin!r} is no origin; write it like https://chat.example.com, no path")
        return given

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for host in given:
            if not re.fullmatch(r"[\w.*-]+", host):
                raise ValueError(f"browsers.hosts: {host!r} is no name; write it without scheme, port and path")
        return given


class PortSettings(Settings):
    """Another address on which the ingress itself listens, without Serve's proxy."""

    host: str = "127.0.0.1"
    """Address to bind; 0.0.0.0 takes connections from other machines."""
    port: int = Field(11434, ge=1, le=65535)
    """TCP port, Ollama's by default."""
