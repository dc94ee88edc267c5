"""A compiled chat template: variables in, text with origins out. Knows no tokens."""

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateSyntaxError
from jinja2.meta import find_undeclared_variables

from serve_app.chat.formats.jinja.budget import limit
from serve_app.chat.formats.jinja.environment import ChatEnvironment, TemplateRefusal
from serve_app.chat.formats.jinja.tracked_text import concat
from serve_app.errors import ModelUnusable

_LONGEST_CAUSE_CHARS = 200


class CannotRender(Exception):
    """A template did not render a conversation; `refused` says that it chose so, else it failed."""

    def __init__(self, message: str, *, refused: bool) -> None:
        """Keep the template's words or the cause of the failure."""
        super().__init__(message)
        self.message = message
        self.refused = refused


class ChatTemplate:
    """One template of a model."""

    def __init__(self, source: str, file: str) -> None:
        """Compile it; raises `ModelUnusable` naming `file` where that fails."""
        environment = ChatEnvironment()
        try:
            with limit(len(source)):
                self.variables = frozenset(find_undeclared_variables(environment.parse(source)))
                """Names that the template reads and does not set."""
                self._template = environment.from_string(source)
        except Exception as error:  # Jinja's own errors, and Python's for code that it cannot compile
            line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
            raise ModelUnusable(f"{file}: the chat template cannot be compiled: {line}{_explain(error)}") from error

    def render(self, variables: Mapping[str, Any], input_chars: int) -> str:
        """Return the text of a conversation of `input_chars` characters; raises `CannotRender`."""
        try:
            with limit(input_chars):
                return concat(self._template.root_render_func(self._template.new_context(dict(variables))))
        except TemplateRefusal as refusal:
            raise CannotRender(_cut(refusal.message or "the conversation is not of the form it wants"), refused=True) from refusal
        except Exception as error:  # whatever an expression in a template raises
            raise CannotRender(_explain(error), refused=False) from error


def _explain(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return _cut(str(error)) or type(error).__name__


def _cut(message: str) -> str:
    return " ".join("".join((message,)).split())[:_LONGEST_CAUSE_CHARS].rstrip(".")
