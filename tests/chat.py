"""The embedded model's chat format, as suites use it: markers in texts, streams that find calls, constraints of requests."""

import json
from collections.abc import Mapping
from pathlib import Path

from serve_app.chat.answer_parser import AnswerParser, CallOrText, CallParser, CallPart
from serve_app.chat.formats.phi4.calls import Phi4CallParser
from serve_app.chat.formats.phi4.format import Phi4Format
from serve_app.chat.formats.phi4.tokens import MARKERS
from serve_app.chat.text_stream import TextStream
from serve_app.chat.tokenizer import Tokenizer
from serve_app.conversation import Chat, GenerateRequest
from serve_app.models.locate import EMBEDDED
from serve_app.types import Constraint

FORMAT = Phi4Format(Tokenizer.load(EMBEDDED))


def parser(*tools: str, strict: bool = False, think_tags: tuple[str, str] | None = None, prefill: str = "") -> AnswerParser:
    """Return the parser of one answer that may call `tools`."""

    def calls(begun: bool) -> CallParser:
        return Phi4CallParser(tools, marked_only=strict, begun=begun)

    return AnswerParser(calls if tools else None, MARKERS, think_tags=think_tags, prefill=prefill)


def marked(text: str) -> str:
    """Return a text with what stands for the markers' tokens in place of their names."""
    return parser("any").insert_markers(text)


def call_stream(tokenizer: Tokenizer, *tools: str, stop: tuple[str, ...] = (), choice: int = 0) -> TextStream:
    """Return the text stream of one answer that may call `tools`."""
    return TextStream(tokenizer, stop, parser=parser(*tools), choice=choice)


def constraint_of(request: GenerateRequest) -> Constraint | None:
    """Return what a decoded request's answers must look like."""
    prompt = request.prompts[0]
    return FORMAT.build_constraint(prompt.tools if isinstance(prompt, Chat) else (), request.form)


def parse_pieces(parser: CallParser, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return the text and the calls that the pieces of an answer add up to."""
    parts: list[CallOrText] = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    calls: dict[int, tuple[str, str]] = {}
    for part in parts:
        if isinstance(part, CallPart):
            name, arguments = calls.get(part.index, ("", ""))
            assert bool(name) != bool(part.name), "the first part of a call, and no other, has its name"
            calls[part.index] = (name + part.name, arguments + part.arguments)
    assert list(calls) == list(range(len(calls)))
    return "".join(part for part in parts if isinstance(part, str)), list(calls.values())


def put_marks(markers: Mapping[str, str], text: str) -> str:
    """Return the text that a parser reads where each marker in `text` was a token."""
    for name, mark in markers.items():
        text = text.replace(name, mark)
    return text


def cut_everywhere(text: str) -> list[list[str]]:
    """Return the text in one piece, in single characters, and cut in two at every place."""
    return [[text], list(text), *([text[:at], text[at:]] for at in range(1, len(text)))]


def load_renamed(folder: Path, names: dict[str, str]) -> Tokenizer:
    """Return the embedded model's tokenizer with other names for some of its control tokens; its files come to `folder`."""
    for file in EMBEDDED.glob("*.json"):
        text = file.read_text()
        for old, new in names.items():
            text = text.replace(json.dumps(old), json.dumps(new))
        (folder / file.name).write_text(text)
    return Tokenizer.load(folder)
