"""STUB, to be replaced by the lead's module of this name: the token by which this machine's operator is recognised."""

from pathlib import Path


def read_token() -> str | None:
    """Return the token of the application that runs here; None where there is none or this user may not read it."""
    try:
        return Path("~/.local/share/phi-serve/operator-token").expanduser().read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
