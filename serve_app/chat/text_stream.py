"""Turns a generation's tokens into text, thoughts and tool calls: never half a character, never past a stop string.

Pure: no engine, no dialect, no chat format, no clock.
"""

import codecs
import uuid
from dataclasses import replace

from serve_app.chat.answer_parser import AnswerParser, CallPart, Part, Thought
from serve_app.chat.overlap import overlap
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import AnswerDelta, TextDelta, TextLogprob, ThoughtDelta, ToolCall, ToolCallDelta
from serve_app.types import TokenDelta, TokenLogprob


class TextStream:
    """Incremental detokenizer with stop strings, for one choice; its parser finds thoughts and calls.

    Contract: `push` returns what is certain; text that may yet become a stop string, a character or a tool call is held back until
    `flush`. Once `stopped` is true nothing more may be pushed, and no part of the stop string was or will be returned.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...] = (),
        *,
        parser: AnswerParser | None = None,
        choice: int = 0,
        min_tokens: int = 0,
        one_call: bool = False,
        hide_thoughts: bool = False,
    ) -> None:
        """Prepare for one choice.

        `stop` strings must not be empty, and count only in what follows `min_tokens` tokens. With `one_call` a second call ends the
        answer, as a stop string would.
        """
        self._tokenizer = tokenizer
        self._parser = parser or AnswerParser()
        names = {token: tokenizer.raw(token).decode() for token in tokenizer.vocabulary.control_ids}
        self._control_texts = {token: self._parser.control_texts.get(name, "") for token, name in names.items()}
        self._stop = {self._parser.insert_markers(text): text for text in stop}
        """The client's stop strings, by what they are in the decoded text."""
        self._min_tokens = min_tokens
        self._one_call = one_call
        self._hide_thoughts = hide_thoughts
        self._complete = False
        self._calls: list[ToolCall] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.choice = choice
        self.stopped = False
        """Whether a stop string has come, or a second call where one is wanted."""
        self.stop_sequence: str | None = None
        """The stop string that has come."""
        self.tokens = 0
        """Tokens taken in, the one that completed the stop string included."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Tool calls found so far."""
        return tuple(self._calls)

    def push(self, delta: TokenDelta) -> list[AnswerDelta]:
        """Take new tokens; return what is now certain."""
        text: list[str] = []
        logprobs: list[TextLogprob] = []
        for position, token in enumerate(delta.ids):
            self.tokens += 1
            if delta.logprobs:
                logprobs.append(self._decode_logprob(delta.logprobs[position]))
            text.append(self._release(self._decode(token)))
            if self.stopped:
                break
        return self._parse("".join(text), logprobs, last=self.stopped)

    def flush(self) -> list[AnswerDelta]:
        """Return what was held back, at the end of a generation in which no stop string came."""
        if self.stopped:
            return []
        text = self._release(self._decoder.decode(b"", True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return self._parse(text, [], last=True)

    def _decode(self, token: int) -> str:
        control = self._control_texts.get(token)
        if control is None:
            return self._parser.remove_markers(self._decoder.decode(self._tokenizer.raw(token)))
        return self._decoder.decode(b"", True) + control if control else ""

    def _release(self, text: str) -> str:
        """Add decoded text and return what can no longer be part of a stop string."""
        if not self._stop or self.tokens <= self._min_tokens:
            return text
        if not text:
            return ""
        self._held += text
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            at, stop = min(found, key=lambda each: each[0])
            certain, self._held = self._held[:at], ""
            self.stopped, self.stop_sequence = True, self._stop[stop]
            return certain
        keep = overlap(self._held, self._stop)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain

    def _parse(self, text: str, logprobs: list[TextLogprob], *, last: bool) -> list[AnswerDelta]:
        deltas: list[AnswerDelta] = []
        for part in self._parser.push(text) + (self._parser.finish() if last else []):
            self._complete = self._complete or (self._one_call and isinstance(part, CallPart) and part.index > 0)
            if not self._complete and not (self._hide_thoughts and isinstance(part, Thought)):
                deltas.append(self._delta(part))
        self.stopped = self.stopped or self._complete
        if logprobs:  # they belong to the tokens, wherever the tokens' text went
            first = deltas[0] if deltas else None
            carrier = TextDelta(text="", choice=self.choice) if first is None or isinstance(first, ToolCallDelta) else first
            deltas[: carrier is first] = [replace(carrier, logprobs=tuple(logprobs))]
        return deltas

    def _delta(self, part: Part) -> AnswerDelta:
        if isinstance(part, str):
            return TextDelta(text=part, choice=self.choice)
        if isinstance(part, Thought):
            return ThoughtDelta(text=part.text, choice=self.choice)
        if part.index < len(self._calls):
            delta = ToolCallDelta(index=part.index, arguments=part.arguments, choice=self.choice)
            self._calls[part.index] = self._calls[part.index].extend_by(delta)
            return delta
        key = f"call_{uuid.uuid4().hex[:24]}"
        self._calls.append(ToolCall(id=key, name=part.name, arguments=part.arguments))
        return ToolCallDelta(index=part.index, id=key, name=part.name, arguments=part.arguments, choice=self.choice)

    def _decode_logprob(self, logprob: TokenLogprob) -> TextLogprob:
        raw = self._tokenizer.raw(logprob.token)
        top = ((self._tokenizer.raw(token), value) for token, value in logprob.top)
        return TextLogprob(
            token=raw.decode("utf-8", "replace"),
            raw=raw,
            logprob=logprob.logprob,
            top=tuple((alternative.decode("utf-8", "replace"), alternative, value) for alternative, value in top),
        )
