"""Compares the environment with cluster/serve.env: settings that Ray Serve reads when its processes start. Pure."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from serve_app.diagnosis.checks import Check, ok, warn

SETTINGS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "RAY_SERVE_PROXY_USE_GRPC": ("1", "every streamed chunk goes through Ray's object store, which is slower"),
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": ("0", "every streamed chunk crosses a thread more"),
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": ("0", "every streamed chunk crosses an event loop more"),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": (
            "deployments.proxy_headers:middlewares",
            "requests with header bytes that are not UTF-8 get a 500 in plain text",
        ),
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": ("1", "SIGTERM ends the application with a C++ stack in the log"),
    }
)
"""The settings of cluster/serve.env by name: the value, and the effect of leaving it out. A test compares it with the file."""
_FIX = "start with `make serve`, or load the file before `ray start` and `serve run`: `set -a; . cluster/serve.env`"


def check_environment(environment: Mapping[str, str]) -> Iterator[Check]:
    """Yield the settings of cluster/serve.env that are missing from the environment, or have another value."""
    wrong = False
    for name, (value, effect) in SETTINGS.items():
        given = environment.get(name)
        if given == value:
            continue
        wrong = True
        state = "is not set" if given is None else f"is {given[:40]!r}, not {value!r}"
        yield warn("environment", f"{name} {state}: {effect}", _FIX)
    if not wrong:
        yield ok("environment", f"all {len(SETTINGS)} settings of cluster/serve.env are set")
