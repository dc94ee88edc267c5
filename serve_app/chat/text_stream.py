"""Turns a generation's tokens into text and tool calls: never half a character, never past a stop string.

Pure: no engine, no dialect, no clock.
"""

import codecs
import uuid
from collections.abc import Collection
from dataclasses import replace

from serve_app.chat.call_object import CallPart
from serve_app.chat.overlap import overlap
from serve_app.chat.thinking import ThinkSplitter
from serve_app.chat.tokenizer import Tokenizer
from serve_app.chat.tool_calls import BEGIN, BEGIN_TOKEN, END, END_TOKEN, ToolCallParser, marked, unmarked
from serve_app.conversation import TextDelta, TextLogprob, ToolCall, ToolCallDelta
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
        strict: bool = False,
        one_call: bool = False,
        think_tags: tuple[str, str] | None = None,
        hide_thoughts: bool = False,
        prefill: str = "",
    ) -> None:
        """Prepare for one choice.

        `stop` strings must not be empty, and count only in what follows `min_tokens` tokens. With the names of `tools`, calls are
        told from text, `strict` only those with the model's marker, and with `think_tags` thoughts, which `hide_thoughts`
        leaves out. With `one_call` a second call ends the answer, as a stop string would. The tokens continue `prefill`, nothing
        of which is returned.
        """
        self._hide_thoughts = hide_thoughts
        self._thinking = None if think_tags is None else ThinkSplitter(*think_tags)
        self._one_call = one_call
        self._complete = False
        if self._thinking is not None:
            self._thinking.resume(prefill)
        begun = bool(prefill.strip()) if self._thinking is None else self._thinking.answering
        self._parser = None if tools is None else ToolCallParser(tools, marked_only=strict, begun=begun)
        self._calls: list[tuple[str, str, list[str]]] = []
        shown = {} if tools is None else {BEGIN_TOKEN: BEGIN, END_TOKEN: END}
        shown |= {tag: tag for tag in think_tags or ()}
        names = {token: tokenizer.raw(token).decode() for token in tokenizer.vocabulary.control_ids}
        self._shown = {token: shown.get(name, "") for token, name in names.items()}
        """What each control token is to those who read on; empty: nothing."""
        self._min_tokens = min_tokens
        self._tokenizer = tokenizer
        self._stop = stop if tools is None else tuple(map(marked, stop))
        self.choice = choice
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """Whether a stop string was met, or the second of one call."""
        self.tokens = 0
        """Tokens taken in, the one that completed the stop string included."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Tool calls found so far."""
        return tuple(ToolCall(id=key, name=name, arguments="".join(arguments)) for key, name, arguments in self._calls)

    def push(self, delta: TokenDelta) -> list[TextDelta | ToolCallDelta]:
        """Take new tokens; return what is now certain."""
        text: list[str] = []
        logprobs: list[TextLogprob] = []
        for position, token in enumerate(delta.ids):
            self.tokens += 1
            if delta.logprobs:
                logprobs.append(self._name(delta.logprobs[position]))
            text.append(self._release(self._decoded(token)))
            if self.stopped:
                break
        return self._parts("".join(text), logprobs, last=self.stopped)

    def _decoded(self, token: int) -> str:
        shown = self._shown.get(token)
        if shown is None:
            text = self._decoder.decode(self._tokenizer.raw(token))
            return text if self._parser is None else unmarked(text)
        return self._decoder.decode(b"", True) + shown if shown else ""

    def flush(self) -> list[TextDelta | ToolCallDelta]:
        """Return what was held back, at the end of a generation that met no stop string."""
        if self.stopped:
            return []
        text = self._release(self._decoder.decode(b"", True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return self._parts(text, [], last=True)

    def _parts(self, text: str, logprobs: list[TextLogprob], *, last: bool) -> list[TextDelta | ToolCallDelta]:
        pieces = [(text, False)] if text else []
        if self._thinking is not None:
            pieces = self._thinking.push(text) + (self._thinking.finish() if last else [])
        told: list[TextDelta | ToolCallDelta] = []
        for piece, thought in pieces:
            if thought and self._hide_thoughts:
                continue
            if thought or self._parser is None:
                told.append(TextDelta(text=piece, choice=self.choice, thought=thought))
            else:
                self._tell(self._parser.push(piece), told)
        if last and self._parser is not None:
            self._tell(self._parser.finish(), told)
        if logprobs:  # they belong to the tokens, wherever their text went
            first = told[0] if told else None
            carrier = first if isinstance(first, TextDelta) else TextDelta(text="", choice=self.choice)
            told[: isinstance(first, TextDelta)] = [replace(carrier, logprobs=tuple(logprobs))]
        return told

    def _tell(self, parts: list[str | CallPart], told: list[TextDelta | ToolCallDelta]) -> None:
        for part in parts:
            self._complete = self._complete or (self._one_call and isinstance(part, CallPart) and part.index > 0)
            if not self._complete:
                told.append(self._delta(part))
        self.stopped = self.stopped or self._complete

    def _delta(self, part: str | CallPart) -> TextDelta | ToolCallDelta:
        if isinstance(part, str):
            return TextDelta(text=part, choice=self.choice)
        if part.index < len(self._calls):
            self._calls[part.index][2].append(part.arguments)
            return ToolCallDelta(index=part.index, arguments=part.arguments, choice=self.choice)
        key = f"call_{uuid.uuid4().hex[:24]}"
        self._calls.append((key, part.name, [part.arguments]))
        return ToolCallDelta(index=part.index, id=key, name=part.name, arguments=part.arguments, choice=self.choice)

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
        keep = overlap(self._held, self._stop)
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
