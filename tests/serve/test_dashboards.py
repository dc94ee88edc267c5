"""Debian's Prometheus scrapes the running application and Ray; every panel of both Grafana dashboards then shows every group."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from ray.dashboard.modules.metrics.dashboards.serve_llm_dashboard_panels import serve_llm_dashboard_config

from serve_app.manifests.grafana import PANELS
from tests.cluster.conftest import tool
from tests.live import LiveApp, free_port

pytestmark = pytest.mark.slow

LIMIT_S = 220
QUESTION = "Count from 1 to 20. " * 60
"""Several blocks of vLLM's prefix cache, 128 tokens each on CPUs: Ray knows no counter that has counted nothing."""
FOREIGN = re.compile("nixl|kv_offload|external_prefix|num_requests_swapped")
"""What vLLM says of transfers between GPUs and to other memory, and of a state that it no longer has: nothing on CPUs counts it."""


def _ours() -> dict[str, str]:
    return {
        f"{panel.title}: {legend}": query.replace("$__rate_interval", "30s").replace("$group", ".*")
        for panel in PANELS
        for legend, query in panel.queries.items()
    }


def _rays() -> dict[str, str]:
    panels = serve_llm_dashboard_config.panels + [panel for row in serve_llm_dashboard_config.rows or [] for panel in row.panels]
    found = {}
    for panel in panels:
        for number, target in enumerate(panel.targets):
            query = target.expr.replace("{global_filters}", "").replace("{{", "{").replace("}}", "}").replace("$interval", "1m")
            if not FOREIGN.search(query):
                found[f"Ray, {panel.title} {number}"] = re.sub(r"\$(vllm_model_name|workerid|deployment)", ".*", query)
    return found


@pytest.fixture(scope="module")
def prometheus(app: LiveApp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; it scrapes each second."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    rays = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]
    targets = {"phi-serve": [app.url.removeprefix("http://")], "ray": rays}
    jobs = [{"job_name": name, "static_configs": [{"targets": each}]} for name, each in targets.items()]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [tool("prometheus"), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT)
    try:
        yield _ready(f"http://127.0.0.1:{port}", folder / "log")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _ready(url: str, log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/-/ready").status_code == 200:
                return url
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(log.read_text())


def _answer(url: str, query: str) -> list[dict[str, Any]]:
    """The result's series that hold a number."""
    reply = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30)
    assert reply.status_code == 200, f"{query}: {reply.text}"
    return [each for each in reply.json()["data"]["result"] if each["value"][1] != "NaN"]


def test_every_panel_shows_every_group(app: LiveApp, prometheus: str) -> None:
    engines = app.config["applications"][0]["args"]["engines"]
    groups = {name for name, engine in engines.items() if engine["kind"] != "fake"}
    missing = {name: (query, groups) for name, query in (_ours() | _rays()).items()}
    assert len(missing) > 40
    deadline = time.monotonic() + LIMIT_S
    while missing and time.monotonic() < deadline:
        for group in groups:
            app.client().chat.completions.create(
                model="phi-4-mini-instruct",
                messages=[{"role": "user", "content": QUESTION}],
                max_tokens=30,
                extra_headers={"x-engine": group},
            )
        time.sleep(2)
        for name, (query, _) in list(missing.items()):
            found = _answer(prometheus, query)
            label = "group" if "group" in query and not name.startswith("Ray") else "deployment"
            shown = {series["metric"].get(label) for series in found}
            left = set() if None in shown else groups - shown  # a panel over all groups has no such label
            missing[name] = (query, left)
            if found and not left:
                del missing[name]
    assert not missing, "\n".join(f"{name}: {sorted(left) or 'nothing'}\n  {query}" for name, (query, left) in missing.items())
