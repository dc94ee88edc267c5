"""What the suite checks manifests with: KubeRay's schemas, helm and promtool. What is not there is skipped, with the reason."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".cache" / "tools"


def tool(name: str) -> str:
    """Return the path of a program, from PATH or where `make tools` puts it."""
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS))
    if found is None:
        pytest.skip(f"{name} is not installed: `make tools` fetches it")
    return found


@pytest.fixture(scope="session")
def ray_service_schema() -> jsonschema.Draft202012Validator:
    """KubeRay's schema of a RayService, in which unknown fields are errors, as `kubectl --validate=strict` has it."""
    folder = os.environ.get("KUBERAY_SCHEMAS")
    if not folder:
        pytest.skip("KUBERAY_SCHEMAS names no folder with KubeRay's schemas; .ci/run sets it")
    schema = json.loads((Path(folder) / "rayservice.v1.schema.json").read_text())
    # An API server does not let a manifest define these; their fields are Kubernetes' own.
    for field in ("apiVersion", "kind"):
        schema["properties"].setdefault(field, {"type": "string"})
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not free and schema.get("type") == "object":
        strict["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    return strict
