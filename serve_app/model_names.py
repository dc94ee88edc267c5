"""Model names as Ollama writes them: `[host/][namespace/]model[:tag]`, case-insensitive. Pure.

Left out, the host is `registry.ollama.ai`, the namespace `library` and the tag `latest`; written out they name the same model.
"""

import re

from serve_app.errors import InvalidRequest

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?")
LATEST = ":latest"
_HOST, _NAMESPACE = "registry.ollama.ai", "library"
_LONGEST = 160


def strip_defaults(name: str) -> str:
    """Return the name without the host, namespace and tag that Ollama fills in by itself."""
    if name.casefold().endswith(LATEST):
        name = name[: -len(LATEST)]
    parts = name.split("/")
    if len(parts) == 3 and parts[0].casefold() == _HOST:
        del parts[0]
    if len(parts) == 2 and parts[0].casefold() == _NAMESPACE:
        del parts[0]
    return "/".join(parts)


def normalize_name(name: str) -> str:
    """Return what equal names have in common."""
    return strip_defaults(name).casefold()


def add_tag(name: str) -> str:
    """Return the name with its tag written out, as Ollama lists it."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def require_name(name: str) -> str:
    """Return a name for a new model, `strip_defaults`; raises `InvalidRequest` for anything that is not plainly a name."""
    wanted = strip_defaults(name)
    if len(wanted) > _LONGEST or not _NAME.fullmatch(wanted) or ".." in wanted or not wanted.isascii():
        raise InvalidRequest(
            f"invalid model name '{shorten_name(name)}': use letters, digits, '.', '_', '-', at most two '/' and one ':tag'",
            param="model",
        )
    return wanted


def shorten_name(name: str) -> str:
    """Return a name cut to what fits into a message."""
    return name if len(name) <= 100 else name[:100] + "..."
