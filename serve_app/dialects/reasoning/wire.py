"""Request body of the reasoning API. Shapes only."""

from typing import Literal

from pydantic import Field

from serve_app.dialects.base import WireBody


class ReasoningBody(WireBody):
    """POST /reasoning."""

    model: str | None = None
    """The model's name; left out: as in every API, the first model or `auto`."""
    prompt: str = Field(min_length=1)
    task_type: Literal["reasoning", "math", "coding"] = "reasoning"
    max_length: int = 200
    """Most tokens generated; the prompt does not count."""
    temperature: float = 0.3
