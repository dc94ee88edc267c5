"""The Serve application: `serve run serve_config.yaml` calls `build_app` with the `args:` half of the file.

Runs in a Ray task on the cluster, so it stays cheap and pure: it starts nothing and imports no engine.
"""

from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException

from deployments.groups import build_group
from deployments.ingress import build_ingress
from deployments.listening import require_keys
from serve_app.config import AppSettings
from serve_app.validation.app_half import parse_args
from serve_app.validation.text import Document


def build_app(args: dict[str, Any]) -> serve.Application:
    """Return the ingress bound to one deployment per configured engine group.

    Raises `RayServeException` with every mistake in `args`, or where other machines would reach an application that has no keys.
    Only this exception tells Serve that another attempt would fail too: for any other it builds the application four times.
    """
    settings = _read(args)
    try:
        require_keys(settings)
    except ValueError as error:
        raise RayServeException(str(error)) from None
    groups = {name: build_group(settings, name) for name in settings.engines}
    return build_ingress(settings, groups)


def _read(args: dict[str, Any]) -> AppSettings:
    settings, findings = parse_args(Document(), ("args",), args)
    if settings is None:
        lines = [f"  {each.place}: {each.problem}{f' -> {each.fix}' if each.fix else ''}" for each in findings]
        raise RayServeException("\n".join(("the configuration cannot be used:", *lines)))
    return settings
