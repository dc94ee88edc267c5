"""The embedded model's chat format, as suites use it: markers in texts, streams that find calls, constraints of requests."""

from serve_app.chat.answer_parser import AnswerParser, CallParser
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
