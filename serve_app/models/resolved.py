"""What a name that a client uses resolves to, and the errors where its model cannot do what is asked. Knows no engine."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from serve_app.conversation import GenerateRequest
from serve_app.errors import InvalidRequest
from serve_app.model_names import shorten_name
from serve_app.models.encoder import EncoderModel
from serve_app.models.served import ServedModel
from serve_app.models.variant import Variant

AnyModel: TypeAlias = ServedModel | EncoderModel
ModelT = TypeVar("ModelT", bound=AnyModel, covariant=True)
_CONFIGURE = "to serve one, add a model and a group of `kind: onnx_encoder` for it (docs/configuration.md, Embeddings)"


@dataclass(frozen=True, slots=True)
class Resolved(Generic[ModelT]):
    """The model, variant and groups behind a name."""

    model: ModelT
    variant: Variant
    held_by: tuple[str, ...]
    """The engine groups that serve the model."""
    groups: tuple[str, ...]
    """Of these, the groups that may answer for the name."""

    def apply_to(self: "Resolved[ServedModel]", request: GenerateRequest) -> GenerateRequest:
        """Return the request with what the name adds; raises `InvalidRequest` or `Unsupported` when the two do not go together."""
        request = self.variant.apply_to(request)
        self.model.require_supported(request)
        return request


def require_generating(resolved: Resolved[AnyModel]) -> Resolved[ServedModel]:
    """Return the model behind a name; raises `InvalidRequest` for an embedding model."""
    if isinstance(resolved.model, ServedModel):
        return Resolved(resolved.model, resolved.variant, resolved.held_by, resolved.groups)
    raise InvalidRequest(
        f"'{shorten_name(resolved.variant.name)}' is an embedding model and generates nothing; its endpoints are "
        "POST /v1/embeddings and POST /api/embed",
        param="model",
    )


def require_encoder(resolved: Resolved[AnyModel], encoders: Collection[str]) -> Resolved[EncoderModel]:
    """Return the embedding model behind a name; raises `InvalidRequest` for one that generates, with the names of `encoders`."""
    if isinstance(resolved.model, EncoderModel):
        return Resolved(resolved.model, resolved.variant, resolved.held_by, resolved.groups)
    hint = f"embedding models are: {', '.join(encoders)}" if encoders else _CONFIGURE
    raise InvalidRequest(f"'{shorten_name(resolved.variant.name)}' generates text and makes no embeddings; {hint}", param="model")


def no_encoder() -> InvalidRequest:
    """Return the error where no embedding model is configured."""
    return InvalidRequest(f"no embedding model is served here; {_CONFIGURE}", param="model")
