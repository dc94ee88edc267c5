"""Model names as Ollama writes them: `[host/][namespace/]model[:tag]`, case-insensitive, tag `latest` understood. Pure."""

import re

from serve_app.errors import InvalidRequest

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?")
LATEST = ":latest"
_LONGEST = 160


def key(name: str) -> str:
    """Return what equal names have in common."""
    return name.removesuffix(LATEST).casefold()


def tagged(name: str) -> str:
    """Return the name with its tag written out, as Ollama lists it."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def require_name(name: str) -> str:
    """Return a name for a new model, without `:latest`; raises `InvalidRequest` for anything that is not plainly a name."""
    bare = name.removesuffix(LATEST)
    if len(bare) > _LONGEST or not _NAME.fullmatch(bare) or ".." in bare or not bare.isascii():
        raise InvalidRequest(
            f"invalid model name '{shown(name)}': use letters, digits, '.', '_', '-', at most two '/' and one ':tag'", param="model"
        )
    return bare


def shown(name: str) -> str:
    """Return a name cut to what fits into a message."""
    return name if len(name) <= 100 else name[:100] + "..."
