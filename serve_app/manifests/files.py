"""Renders the committed manifests of serve_config.yaml. `make manifests` writes them, a test compares them."""

import json
from pathlib import Path

import yaml

from serve_app.manifests.chart import render_values
from serve_app.manifests.compose import build_compose
from serve_app.manifests.grafana import build_dashboard
from serve_app.manifests.kuberay import ClusterOptions
from serve_app.manifests.kubernetes import build_objects
from serve_app.manifests.plan import Config, Hardware, Platform, build_plan
from serve_app.manifests.text import dump, dump_all

_HEADER = "# Made from serve_config.yaml by `make manifests`; change that file, or serve_app/manifests.\n"
_RULES = Path(__file__).with_name("rules.yaml")
_SERVE_ENV = Path(__file__).with_name("serve.env")


def read_serve_environment() -> dict[str, str]:
    """Return the environment variables by which Ray and Serve run as the application needs them."""
    lines = (line.strip() for line in _SERVE_ENV.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def render_compose(config: Config) -> str:
    """Return the compose file for a configuration."""
    cpu, gpu = (build_plan(config, variant, Platform.COMPOSE) for variant in (Hardware.CPU, Hardware.GPU))
    return dump(build_compose(cpu, gpu))


def render_kuberay(config: Config, variant: Hardware, choices: ClusterOptions) -> str:
    """Return the objects of a cluster on Kubernetes as a stream of documents."""
    plan = build_plan(config, variant, Platform.KUBERNETES)
    return dump_all(build_objects(plan, choices, yaml.safe_load(_RULES.read_text())))


def render_all(root: Path) -> dict[str, str]:
    """Return the text of every generated file of the repository at `root`, by its path there."""
    config = yaml.safe_load((root / "serve_config.yaml").read_text())
    files = {
        "docker/compose.yaml": _HEADER + render_compose(config),
        "cluster/serve.env": _SERVE_ENV.read_text(),
        "cluster/chart/files/rules.yaml": _RULES.read_text(),
        "cluster/prometheus/rules.yaml": _RULES.read_text(),
        "cluster/grafana/dashboards/phi-serve.json": json.dumps(build_dashboard(), indent=1) + "\n",
    }
    for variant in Hardware:
        files[f"cluster/kuberay/{variant}.yaml"] = _HEADER + render_kuberay(config, variant, ClusterOptions())
        name = "values.yaml" if variant is Hardware.CPU else f"values-{variant}.yaml"
        plan = build_plan(config, variant, Platform.KUBERNETES)
        files[f"cluster/chart/{name}"] = f"{_HEADER}\n{render_values(plan, ClusterOptions())}"
    return files


def write(root: Path) -> list[str]:
    """Write the generated files that differ; return their paths."""
    changed = []
    for path, text in render_all(root).items():
        file = root / path
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for path in write(Path()):
        print(f"wrote {path}")
