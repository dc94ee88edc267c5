"""Derives the affinity of requests, so that the turns of a conversation find its beginning in one replica's cache. Pure."""

from hashlib import blake2b

from serve_app.conversation import Chat, Prompt, RawText

_READ_CHARS = 512
_READ_TOKENS = 128


def derive_affinity(prompt: Prompt, session: str | None) -> str:
    """Return a key that all turns of a conversation share: of the client's session, else of the beginning of the prompt."""
    if session:
        return _digest(f"session {session}")
    if isinstance(prompt, Chat):
        # Up to the first turn of the user: later turns only add to it.
        count = next((i for i, message in enumerate(prompt.messages) if message.role == "user"), len(prompt.messages)) + 1
        return _digest("\0".join(f"{message.role}\0{message.content[:_READ_CHARS]}" for message in prompt.messages[:count]))
    if isinstance(prompt, RawText):
        return _digest(prompt.text[:_READ_CHARS])
    return _digest(repr(prompt.ids[:_READ_TOKENS]))


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
