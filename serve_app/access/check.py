"""Decides who sent a request, from what its headers say. Pure but for the file of keys. Knows no web framework.

A request's network address counts for nothing: behind a proxy everybody comes from the same one.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from serve_app.access.keys import KeyFile, now
from serve_app.access_config import AccessSettings
from serve_app.caller import ANONYMOUS, Caller, Scope
from serve_app.errors import Forbidden, Unauthenticated

KEY_HEADERS = ("authorization", "x-api-key", "api-key")
"""Headers that may hold a key: OpenAI's and Ollama's clients send the first, Anthropic's the second, Azure's the third."""
_MAX_KEY_CHARS = 500
_WAYS = "send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"


class Access:
    """The check of every request's caller."""

    def __init__(self, settings: AccessSettings, *, exposed: Sequence[str] = (), clock: Callable[[], datetime] = now) -> None:
        """Check by `settings`; `exposed` are the addresses at which other machines reach this server."""
        self._settings = settings
        self._keys = KeyFile(Path(settings.keys_file).expanduser())
        self._exposed = tuple(exposed)
        self._clock = clock

    @property
    def asks_for_keys(self) -> bool:
        """Whether a request needs a key."""
        return not self._settings.open and self._keys.refresh()

    @property
    def refusal(self) -> str:
        """Why nobody is served, with what the operator can do; empty where somebody is."""
        if self._settings.open or self._keys.refresh() or not self._exposed:
            return ""
        return explain_exposure(self._exposed)

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """Return the owner of a request with these headers, of which only `KEY_HEADERS` count.

        Raises `Unauthenticated` without a valid key, and `Forbidden` where no key exists and other machines could ask.
        """
        if self._settings.open:
            return ANONYMOUS
        if not self._keys.refresh():
            if self._exposed:
                raise Forbidden(self.refusal)
            return ANONYMOUS
        presented = [key for name in KEY_HEADERS if name in headers for key in _read_keys(name, headers[name])]
        if not presented:
            raise Unauthenticated(f"this server asks for an API key; {_WAYS}")
        refusal = Unauthenticated("Incorrect API key provided; the operator makes keys with `phi-serve keys create`")
        for presented_key in presented:
            found = self._keys.find(presented_key)
            if found is None:
                continue
            key, caller, expires = found
            if key.revoked is not None:
                refusal = Unauthenticated(f"the API key '{key.name}' was revoked; ask the operator for another one")
            elif expires is not None and expires <= self._clock():
                refusal = Unauthenticated(f"this API key of '{key.name}' expired; ask the operator for another one")
            else:
                return caller
        raise refusal


def explain_exposure(addresses: Sequence[str]) -> str:
    """Return why a server without keys does not answer at these addresses, and both ways out."""
    return (
        f"the server listens at {', '.join(addresses)}, where other machines reach it, and no key exists, so it answers nobody. "
        "Make a key (`phi-serve keys create NAME`), or write `access: open` under args of the configuration to serve everybody"
    )


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raise `Forbidden` unless the caller may do this."""
    if scope not in caller.scopes:
        raise Forbidden(f"the API key '{caller.name}' may not do this: it lacks the scope '{scope}'")


def _read_keys(name: str, value: str) -> list[str]:
    """Return the key in a header: alone, after `Bearer`, or as the password of `Basic`, which is what a URL's password becomes."""
    value = value.strip()[:_MAX_KEY_CHARS]
    if name != "authorization":
        return [value] if value else []
    scheme, _, rest = value.partition(" ")
    if scheme.lower() == "bearer":
        return [rest.strip()] if rest.strip() else []
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(rest.strip(), validate=True).decode().partition(":")
        except ValueError:  # no base64, or no text
            return []
        return [each for each in (password, user) if each]
    return [value] if value else []
