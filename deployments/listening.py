"""Finds out at which addresses other machines reach the application.

Reads Serve's own options from Serve: they stand in the other half of the configuration.
"""

import ipaddress
import os
from pathlib import Path

import ray
from ray.serve.context import _get_global_client

from serve_app.access.check import explain_exposure
from serve_app.config import AppSettings


def find_exposed_addresses(settings: AppSettings) -> list[str]:
    """Return the addresses, host and port, of Serve's proxy and of the second port that are not loopback ones."""
    client = _get_global_client(raise_if_no_controller_running=False) if ray.is_initialized() else None
    listening = []
    if client is not None and (options := client.http_config) is not None and options.host is not None:
        listening.append((str(options.host), int(options.port)))
    if settings.ollama_port is not None:
        listening.append((settings.ollama_port.host, settings.ollama_port.port))
    return [f"{host}:{port}" for host, port in listening if not is_loopback(host)]


def require_keys(settings: AppSettings) -> None:
    """Raise `ValueError` with both ways out where other machines would reach an application that has no keys."""
    if settings.access.open or os.path.lexists(Path(settings.access.keys_file).expanduser()):
        return
    if exposed := find_exposed_addresses(settings):
        raise ValueError(explain_exposure(exposed))


def is_loopback(host: str) -> bool:
    """Return whether only its own machine reaches an address; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
