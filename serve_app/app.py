"""The Serve application: `serve run serve_config.yaml` calls `build_app` with the `args:` half of the file.

Runs in a Ray task on the cluster, so it stays cheap and pure: it starts nothing and imports no engine.
"""

from ray import serve

from deployments.groups import build_group
from deployments.ingress import build_ingress
from deployments.listening import require_keys
from serve_app.config import AppSettings


def build_app(settings: AppSettings) -> serve.Application:
    """Return the ingress bound to one deployment per configured engine group.

    Raises `ValueError` where other machines would reach an application that has no keys.
    """
    require_keys(settings)
    groups = {name: build_group(settings, name) for name in settings.engines}
    return build_ingress(settings, groups)
