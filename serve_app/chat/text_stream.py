"""Turns a generation's tokens into text, thoughts and tool calls; never yields half a character or text past a stop string.

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

    Contract: `push` returns the parts that are certain; text that may yet become a stop string, a character or a tool call is held
    back until `flush`. Once `stopped` is true nothing more may be pushed, and no part of the stop string is ever returned.
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

        `stop` strings must not be empty, and count only after `min_tokens` tokens. With `one_call` a second call ends the answer,
        as a stop string does.
        """
        self._tokenizer = tokenizer
        self._parser = parser or AnswerParser()
        names = {token: tokenizer.raw(token).decode() for token in tokenizer.vocabulary.control_ids}
        self._control_texts = {token: self._parser.control_texts.get(name, "") for token, name in names.items()}
        self._stop = {self._parser.insert_markers(text): text for text in stop}
        """The client's stop strings by their form in the decoded text."""
        self._min_tokens = min_tokens
        self._one_call = one_call
        self._hide_thoughts = hide_thoughts
        self._is_complete = False
        self._calls: list[ToolCall] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self.choice = choice
        self.stopped = False
        """Whether a stop string has come, or a second call where only one is allowed."""
        self.stop_sequence: str | None = None
        """The stop string that has come."""
        self.tokens = 0
        """Tokens pushed, including the one that completed the stop string."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Tool calls found so far."""
        return tuple(self._calls)

    def push(self, delta: TokenDelta) -> list[AnswerDelta]:
        """Take new tokens; return the deltas that are now certain."""
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
        """Return the text held back, at the end of a generation without a stop string."""
        if self.stopped:
            return []
        text = self._release(self._decoder.decode(b"", True))
        if not self.stopped:
            text, self._pending = text + self._pending, ""
        return self._parse(text, [], last=True)

    def _decode(self, token: int) -> str:
        control = self._control_texts.get(token)
        if control is None:
            return self._parser.remove_markers(self._decoder.decode(self._tokenizer.raw(token)))
        return self._decoder.decode(b"", True) + control if control else ""

    def _release(self, text: str) -> str:
        """Add decoded text; return the text that can no longer be part of a stop string."""
        if not self._stop or self.tokens <= self._min_tokens:
            return text
        if not text:
            return ""
        self._pending += text
        matches = [(at, stop) for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if matches:
            at, stop = min(matches, key=lambda each: each[0])
            certain, self._pending = self._pending[:at], ""
            self.stopped, self.stop_sequence = True, self._stop[stop]
            return certain
        kept_chars = overlap(self._pending, self._stop)
        certain, self._pending = self._pending[: len(self._pending) - kept_chars], self._pending[len(self._pending) - kept_chars :]
        return certain

    def _parse(self, text: str, logprobs: list[TextLogprob], *, last: bool) -> list[AnswerDelta]:
        deltas: list[AnswerDelta] = []
        for part in self._parser.push(text) + (self._parser.finish() if last else []):
            self._is_complete = self._is_complete or (self._one_call and isinstance(part, CallPart) and part.index > 0)
            if not self._is_complete and not (self._hide_thoughts and isinstance(part, Thought)):
                deltas.append(self._to_delta(part))
        self.stopped = self.stopped or self._is_complete
        if logprobs:  # logprobs belong to the tokens, also where their text is held back
            first = deltas[0] if deltas else None
            carrier = TextDelta(text="", choice=self.choice) if first is None or isinstance(first, ToolCallDelta) else first
            deltas[: carrier is first] = [replace(carrier, logprobs=tuple(logprobs))]
        return deltas

    def _to_delta(self, part: Part) -> AnswerDelta:
        if isinstance(part, str):
            return TextDelta(text=part, choice=self.choice)
        if isinstance(part, Thought):
            return ThoughtDelta(text=part.text, choice=self.choice)
        if part.index < len(self._calls):
            delta = ToolCallDelta(index=part.index, arguments=part.arguments, choice=self.choice)
            self._calls[part.index] = self._calls[part.index].extend_by(delta)
            return delta
        call_id = f"call_{uuid.uuid4().hex[:24]}"
        self._calls.append(ToolCall(id=call_id, name=part.name, arguments=part.arguments))
        return ToolCallDelta(index=part.index, id=call_id, name=part.name, arguments=part.arguments, choice=self.choice)

    def _decode_logprob(self, logprob: TokenLogprob) -> TextLogprob:
        raw = self._tokenizer.raw(logprob.token)
        top = ((self._tokenizer.raw(token), value) for token, value in logprob.top)
        return TextLogprob(
            token=raw.decode("utf-8", "replace"),
            raw=raw,
            logprob=logprob.logprob,
            top=tuple((alternative.decode("utf-8", "replace"), alternative, value) for alternative, value in top),
        )
