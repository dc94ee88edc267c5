"""Chooses a request's id: the client's own where it is usable, else a new one.

Imports nothing heavy, since Serve's proxy uses it too.
"""

import re
import uuid

_USABLE = re.compile(r"[!-~]{1,200}")


def choose_request_id(given: str) -> str:
    """Return `given` if it is 1 to 200 printable ASCII characters without blanks, else a new id."""
    return given if _USABLE.fullmatch(given) else uuid.uuid4().hex
