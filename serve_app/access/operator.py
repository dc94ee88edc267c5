"""Who may operate a server that asks for no API keys: whoever can read a file of this user, or holds a ticket from it.

Such a server is reached from its own machine only, but by every user and every web page there. So operating it takes a secret that
lies in a file with mode 0600. Commands of the same user read it; a browser exchanges a ticket, which the terminal prints and which
works once, for a token with an end. Tickets are files too: of several ingresses and commands, each can make and take them. Knows no
HTTP and no key.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serve_app.errors import Unauthenticated

TOKEN_VARIABLE = "PHI_SERVE_OPERATOR_TOKEN"
"""Environment variable with the secret, for commands that cannot read the file."""
DEFAULT_FOLDER = "~/.local/share/phi-serve/operator"
_SESSION_S = 12 * 3600
_TICKET_S = 7 * 86400
_TICKET = re.compile(r"[A-Za-z0-9_-]{20,64}")
_FILE = "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a ticket is exchanged for."""

    token: str
    expires_at: float
    """In seconds since 1970."""


class Operators:
    """The secret, tickets and sessions in one folder."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Use `folder`, made when needed; `clock` returns seconds since 1970."""
        self._folder = folder
        self._clock = clock

    def read_secret(self) -> str:
        """Return the secret, made at the first call; raises `OSError` where the folder cannot be used."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._folder / _FILE
        with suppress(FileExistsError):
            # Written aside and linked, so that nobody reads half of it.
            partial = self._folder / f".{_FILE}.{secrets.token_hex(8)}"
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as out:
                out.write(secrets.token_urlsafe(32))
            try:
                os.link(partial, file)
            finally:
                partial.unlink()
        return file.read_text(encoding="ascii").strip()

    def issue_ticket(self) -> str:
        """Return a new ticket, good for one session within a week; raises `OSError`. Makes the secret too, for commands."""
        self.read_secret()
        folder = self._folder / "tickets"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in folder.iterdir():
            with suppress(OSError):
                if old.stat().st_mtime < self._clock() - _TICKET_S:
                    old.unlink()
        ticket = secrets.token_urlsafe(18)
        os.close(os.open(folder / _hash(ticket), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return ticket

    def redeem(self, ticket: str) -> Session:
        """Return the session of a ticket, which is used up; raises `Unauthenticated` for any other text, and `OSError`."""
        refusal = Unauthenticated("this ticket is unknown, was used or has expired; `phi-serve ops` prints a new one")
        if not _TICKET.fullmatch(ticket):
            raise refusal
        file = self._folder / "tickets" / _hash(ticket)
        try:
            is_old = file.stat().st_mtime < self._clock() - _TICKET_S
            file.unlink()  # succeeds once, whoever else tries at the same time
        except FileNotFoundError:
            raise refusal from None
        if is_old:
            raise refusal
        expires_at = round(self._clock()) + _SESSION_S
        return Session(token=f"{expires_at}.{_sign(self.read_secret(), expires_at)}", expires_at=float(expires_at))

    def allows(self, token: str) -> bool:
        """Return whether `token` is the secret, or the token of a session that has not ended; raises `OSError`."""
        if not token or not token.isascii():
            return False
        secret = self.read_secret()
        if hmac.compare_digest(token, secret):
            return True
        expires_at, _, signature = token.partition(".")
        if not expires_at.isdecimal() or len(expires_at) > 12:
            return False
        return int(expires_at) > self._clock() and hmac.compare_digest(signature, _sign(secret, int(expires_at)))


def find_operators(keys_file: str) -> Operators:
    """Return the operators beside a server's file of keys."""
    return Operators(Path(keys_file).expanduser().parent / "operator")


def read_token() -> str:
    """Return the secret for commands: from the environment, else from this user's file; empty where there is none."""
    if given := os.environ.get(TOKEN_VARIABLE, "").strip():
        return given
    try:
        return (Path(DEFAULT_FOLDER).expanduser() / _FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _hash(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()


def _sign(secret: str, expires_at: int) -> str:
    return hmac.new(secret.encode(), f"session {expires_at}".encode(), hashlib.sha256).hexdigest()
