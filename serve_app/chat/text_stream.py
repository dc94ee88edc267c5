"""Turns a generation's tokens into text and tool calls: never half a character, never past a stop string.

Pure: no engine, no dialect, no clock.
"""

import codecs
import uuid
from collections.abc import Collection, Iterable

from serve_app.chat.tokenizer import Tokenizer
from serve_app.chat.tool_calls import BEGIN, END, CallPart, ToolCallParser
from serve_app.conversation import TextDelta, TextLogprob, ToolCallDelta
from serve_app.types import TokenDelta, TokenLogprob


class TextStream:
    """Incremental detokenizer with stop strings and tool calls for one choice.

    Contract: `push` returns what is certain; text that may yet become a stop string, a character or a tool call is held back until
    `flush`. Once `stopped` is true nothing more may be pushed, and no part of the stop string was or will be returned.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        *,
        choice: int = 0,
        min_tokens: int = 0,
        tools: Collection[str] | None = None,
    ) -> None:
        """Prepare for one choice.

        `stop` strings must not be empty, and count only in what follows `min_tokens` tokens. With the names of `tools`, calls are
        told from text.
        """
        self._parser = None if tools is None else ToolCallParser(tools)
        self._ids: list[str] = []
        self._shown = frozenset(map(tokenizer.token_id, (BEGIN, END))) if tools is not None else frozenset[int]()
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

    @property
    def calls(self) -> int:
        """Tool calls found so far."""
        return len(self._ids)

    def push(self, delta: TokenDelta) -> list[TextDelta | ToolCallDelta]:
        """Take new tokens; return what is now certain."""
        text: list[str] = []
        logprobs: list[TextLogprob] = []
        for position, token in enumerate(delta.ids):
            self.tokens += 1
            if delta.logprobs:
                logprobs.append(self._name(delta.logprobs[position]))
            hidden = token in self._tokenizer.special_ids and token not in self._shown
            text.append(self._release(self._decoder.decode(b"" if hidden else self._tokenizer.raw(token))))
            if self.stopped:
                break
        return self._parts("".join(text), logprobs, last=self.stopped)

    def flush(self) -> list[TextDelta | ToolCallDelta]:
        """Return what was held back, at the end of a generation that met no stop string."""
        if self.stopped:
            return []
        text = self._release(self._decoder.decode(b"", True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return self._parts(text, [], last=True)

    def _parts(self, text: str, logprobs: list[TextLogprob], *, last: bool) -> list[TextDelta | ToolCallDelta]:
        parts: list[str | CallPart] = [text] if text else []
        if self._parser is not None:
            parts = self._parser.push(text)
            if last:
                parts += self._parser.finish()
        told = [self._delta(part) for part in parts]
        if logprobs:  # they belong to the tokens, wherever their text went
            first = told[0] if told else None
            text = first.text if isinstance(first, TextDelta) else ""
            told[: isinstance(first, TextDelta)] = [TextDelta(text=text, logprobs=tuple(logprobs), choice=self.choice)]
        return told

    def _delta(self, part: str | CallPart) -> TextDelta | ToolCallDelta:
        if isinstance(part, str):
            return TextDelta(text=part, choice=self.choice)
        if part.index < len(self._ids):
            return ToolCallDelta(index=part.index, arguments=part.arguments, choice=self.choice)
        self._ids.append(f"call_{uuid.uuid4().hex[:24]}")
        return ToolCallDelta(index=part.index, id=self._ids[-1], name=part.name, arguments=part.arguments, choice=self.choice)

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
