"""A model under a client's name: the served weights with its own system prompt, turns, template and parameters. Pure values."""

from dataclasses import dataclass, field, replace
from typing import Any

from serve_app import parameters as ollama
from serve_app.config import VariantSettings
from serve_app.conversation import Chat, GenerateRequest, Message, Prompt
from serve_app.errors import InvalidRequest
from serve_app.types import InvalidValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A name and the settings it adds to the served model; the served model itself adds none."""

    name: str
    parent: str = ""
    """The name of the model it derives from; empty for the served model and its aliases."""
    root: str = ""
    """The served model's own name; empty in files of earlier versions, where the parents lead to it."""
    settings: VariantSettings = field(default_factory=VariantSettings)
    """All settings, inherited ones included."""
    modified: float
    """Unix seconds."""
    stored: bool = False
    """Whether it was created through the API and can be deleted; other variants are configured."""

    def apply_to(self, request: GenerateRequest) -> GenerateRequest:
        """Return the request with open fields filled in; raises `InvalidRequest` when request and variant contradict each other."""
        settings = self.settings
        fields = {
            name: value for name, value in ollama.read_sampling_fields(settings.parameters).items() if name not in request.explicit
        }
        try:
            sampling = replace(request.sampling, **fields)
        except InvalidValue as error:
            raise InvalidRequest(f"model '{self.name}': {error}", param=error.field) from error
        return replace(
            request,
            sampling=sampling,
            stop=request.stop if "stop" in request.explicit else (*request.stop, *ollama.read_stops(settings.parameters)),
            prompts=tuple(map(self.complete_prompt, request.prompts)),
            window=request.window or ollama.read_window(settings.parameters),
            task=request.task or settings.task,
        )

    def complete_prompt(self, prompt: Prompt) -> Prompt:
        """Return a chat with this model's template, system prompt and turns; other prompts unchanged.

        A system message of the client replaces the system prompt. A chat that continues from token ids already has both.
        """
        if not isinstance(prompt, Chat):
            return prompt
        prompt = replace(prompt, template=prompt.template or self.settings.template)
        if prompt.context:
            return prompt
        messages = list(prompt.messages)
        first = messages[:1] if messages and messages[0].role in ("system", "developer") else []
        system = first or [Message(role="system", content=text) for text in (self.settings.system,) if text]
        turns = [Message(role=turn.role, content=turn.content) for turn in self.settings.messages]
        return replace(prompt, messages=(*system, *turns, *messages[len(first) :]))

    def derive(self, name: str, changes: dict[str, Any], modified: float) -> "Variant":
        """Return a new variant of this one; `changes` are the settings it does not inherit."""
        inherited = self.settings.model_dump(by_alias=False)
        merged = inherited | {key: value for key, value in changes.items() if value is not None}
        merged["parameters"] = inherited["parameters"] | (changes.get("parameters") or {})
        settings = VariantSettings.model_validate(merged | {"parent": self.name})
        return Variant(name=name, parent=self.name, root=self.root, settings=settings, modified=modified, stored=True)
