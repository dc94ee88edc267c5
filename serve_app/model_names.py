"""Model names as Ollama writes them: `[host/][namespace/]model[:tag]`, case-insensitive. Pure.

The default host is `registry.ollama.ai`, the default namespace `library`, the default tag `latest`. A name with defaults written
out means the same model as without them.
"""

import re

from serve_app.errors import InvalidRequest

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?")
LATEST = ":latest"
_HOST, _NAMESPACE = "registry.ollama.ai", "library"
_MAX_CHARS = 160


def strip_defaults(name: str) -> str:
    """Return the name without the host, namespace and tag that are Ollama's defaults."""
    if name.casefold().endswith(LATEST):
        name = name[: -len(LATEST)]
    parts = name.split("/")
    if len(parts) == 3 and parts[0].casefold() == _HOST:
        del parts[0]
    if len(parts) == 2 and parts[0].casefold() == _NAMESPACE:
        del parts[0]
    return "/".join(parts)


def normalize_name(name: str) -> str:
    """Return the key of a name; names of the same model have equal keys."""
    return strip_defaults(name).casefold()


def add_tag(name: str) -> str:
    """Return the name with its tag written out, as Ollama lists it."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def require_name(name: str) -> str:
    """Return a new model's name without defaults; raises `InvalidRequest` unless it is a valid name."""
    stripped = strip_defaults(name)
    if len(stripped) > _MAX_CHARS or not _NAME.fullmatch(stripped) or ".." in stripped or not stripped.isascii():
        raise InvalidRequest(
            f"invalid model name '{shorten_name(name)}': use letters, digits, '.', '_', '-', at most two '/' and one ':tag'",
            param="model",
        )
    return stripped


def shorten_name(name: str) -> str:
    """Return a name cut to a length for messages."""
    return name if len(name) <= 100 else name[:100] + "..."
