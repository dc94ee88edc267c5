"""Turns a generation's tokens into text: never half a character, never past a stop string.

Pure: no engine, no dialect, no clock.
"""

import codecs
from collections.abc import Iterable

from serve_app.chat.tokenizer import Tokenizer
from serve_app.types import TextDelta, TextLogprob, TokenDelta, TokenLogprob


class TextStream:
    """Incremental detokenizer with stop strings for one choice.

    Contract: `push` returns the text that is certain; text that may yet become a stop string or a character is held back until
    `flush`. Once `stopped` is true nothing more may be pushed, and no part of the stop string was or will be returned.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = (), *, choice: int = 0, min_tokens: int = 0) -> None:
        """Prepare for one choice; `stop` strings must not be empty, and count only in what follows `min_tokens` tokens."""
        self._min_tokens = min_tokens
        self._tokenizer = tokenizer
        self._stop = stop
        self.choice = choice
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """Whether a stop string was met."""
        self.tokens = 0
        """Tokens taken in, the one that completed the stop string included."""

    def push(self, delta: TokenDelta) -> TextDelta | None:
        """Take new tokens; return the text now certain, or None when there is nothing to tell."""
        text: list[str] = []
        logprobs: list[TextLogprob] = []
        for position, token in enumerate(delta.ids):
            self.tokens += 1
            if delta.logprobs:
                logprobs.append(self._name(delta.logprobs[position]))
            raw = b"" if token in self._tokenizer.special_ids else self._tokenizer.raw(token)
            text.append(self._release(self._decoder.decode(raw)))
            if self.stopped:
                break
        return self._delta("".join(text), logprobs)

    def flush(self) -> TextDelta | None:
        """Return what was held back, at the end of a generation that met no stop string."""
        if self.stopped:
            return None
        text = self._release(self._decoder.decode(b"", True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return self._delta(text, [])

    def _delta(self, text: str, logprobs: list[TextLogprob]) -> TextDelta | None:
        if not text and not logprobs:
            return None
        return TextDelta(text=text, logprobs=tuple(logprobs), choice=self.choice)

    def _release(self, text: str) -> str:
        """Add decoded text and return what can no longer be part of a stop string."""
        if not self._stop or self.tokens <= self._min_tokens:
            return text
        if not text:
            return ""
        self._held += text
        found = min((at for at in (self._held.find(stop) for stop in self._stop) if at >= 0), default=-1)
        if found >= 0:
            certain, self._held, self.stopped = self._held[:found], "", True
            return certain
        keep = _longest_stop_prefix(self._held, self._stop)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain

    def _name(self, logprob: TokenLogprob) -> TextLogprob:
        raw = self._tokenizer.raw(logprob.token)
        top = ((self._tokenizer.raw(token), value) for token, value in logprob.top)
        return TextLogprob(
            token=raw.decode("utf-8", "replace"),
            raw=raw,
            logprob=logprob.logprob,
            top=tuple((alternative.decode("utf-8", "replace"), alternative, value) for alternative, value in top),
        )


def _longest_stop_prefix(text: str, stops: Iterable[str]) -> int:
    """Return the length of the longest end of `text` that begins one of `stops`."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if stop.startswith(text[-length:]):
                longest = length
                break
    return longest
