"""Resolves the names that clients use to served models, variants and groups. Knows no engine and no dialect."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve_app.config import AppSettings, RoutingSettings, VariantSettings
from serve_app.conversation import GenerateRequest
from serve_app.errors import InvalidRequest, ModelNotFound, Unsupported
from serve_app.faults import client_faults
from serve_app.model_info import ModelInfo
from serve_app.model_names import normalize_name, require_name, shorten_name
from serve_app.models.blobs import BlobStore
from serve_app.models.served import ServedModel
from serve_app.models.usable import require_usable
from serve_app.models.variant import Variant
from serve_app.models.variant_store import VariantStore


@dataclass(frozen=True, slots=True)
class Resolved:
    """The model, variant and groups behind a name."""

    model: ServedModel
    variant: Variant
    groups: tuple[str, ...]
    """The engine groups that may answer for it."""

    def apply_to(self, request: GenerateRequest) -> GenerateRequest:
        """Return the request with what the name adds; raises `InvalidRequest` or `Unsupported` when the two do not go together."""
        request = self.variant.apply_to(request)
        self.model.require_supported(request)
        return request


class Catalog:
    """The names that clients may use: the served models', their aliases, configured variants, and those made through the API.

    Of equal names, one made through the API hides a configured one; the served models' own cannot be taken. Which names are equal:
    see `serve_app.model_names`.
    """

    def __init__(self, settings: AppSettings, models: Iterable[ServedModel], *, created: int) -> None:
        """Take the configuration and the models that it names, in its order.

        `created` is the Unix time in seconds at which the application started, shown as the models' creation. Raises
        `InvalidRequest` for a variant without a served parent, `InvalidValue` for one that could answer nothing.
        """
        folder = None if settings.models_dir is None else Path(settings.models_dir).expanduser()
        self._settings = settings
        self.created = created
        self.blobs = BlobStore(None if folder is None else folder / "blobs")
        self._store = None if folder is None else VariantStore(folder)
        self._models = {model.name: model for model in models}
        self.default = self._models[settings.default_model]
        """The model that requests without a name get."""
        self._own: dict[str, Variant] = {}
        self._owners: dict[str, ServedModel] = {}
        """The models by the keys of their own names."""
        for model in self._models.values():
            for name in (model.name, *model.settings.aliases):
                self._own.setdefault(normalize_name(name), Variant(name=name, modified=created))
                self._owners.setdefault(normalize_name(name), model)
        self._configured: dict[str, Variant] = {}
        for name, wanted in settings.variants.items():
            self._configured[normalize_name(name)] = self._configure_variant(name, wanted)
        self.configure(settings.routing)

    def configure(self, routing: RoutingSettings) -> None:
        """Restrict names to groups by other settings from now on."""
        self._allowed = {normalize_name(name): groups for name, groups in routing.models.items()}

    def _configure_variant(self, name: str, wanted: VariantSettings) -> Variant:
        if normalize_name(name) in self._configured:
            raise InvalidRequest(f"variants: '{name}' and '{self._configured[normalize_name(name)].name}' are the same name")
        changes = wanted.model_dump(exclude={"parent"}, exclude_unset=True)
        parent = self._find_parent(wanted.parent or self.default.name)
        variant = replace(parent.derive(self._require_free(name), changes, self.created), stored=False)
        require_usable(variant, self._find_owner(variant).count_tokens)
        return variant

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every served name with what it adds to its model, the models' own first."""
        return tuple((self._own | self._configured | dict(self._stored()) | self._own).values())

    def resolve(self, name: str | None) -> Resolved:
        """Return the model, variant and groups behind a client's `name`, None meaning the default model; raises `ModelNotFound`."""
        variant = self._find(name)
        model = self._find_owner(variant)
        return Resolved(model, variant, self._find_groups(name, model))

    def describe(self, variant: Variant, context_length: int) -> ModelInfo:
        """Return the description of a name for clients; `context_length` is the groups', in tokens."""
        model = self._find_owner(variant)
        weights = model.weights
        return ModelInfo(
            name=variant.name,
            root=model.name,
            parent=variant.parent,
            settings=variant.settings,
            created=self.created,
            modified=variant.modified,
            weights_identity=weights.identity,
            template=variant.settings.template or model.format.go_template,
            capabilities=model.capabilities,
            context_length=context_length,
            config=weights.config,
            family=weights.family,
            parameters=weights.parameters,
            parameter_size=weights.parameter_size,
            stored_precision=weights.stored_precision,
            stored_bytes=weights.stored_bytes,
        )

    def create(self, name: str, parent: str, changes: dict[str, Any]) -> Variant:
        """Store a variant of `parent`, in place of one of that name; `changes` are settings by name.

        Raises `InvalidRequest` for a bad or taken name and for settings that are bad or that no request could use, `ModelNotFound`
        for the parent, `StorageFailed`.
        """
        name, origin = self._require_free(name), self._find_parent(parent)
        template = changes.get("template")
        if template is not None and template.strip() == self._find_owner(origin).format.go_template.strip():
            changes = changes | {"template": ""}  # the model's own, written out
        try:
            variant = origin.derive(name, changes, round(time.time(), 3))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise InvalidRequest(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        with client_faults():
            require_usable(variant, self._find_owner(variant).count_tokens)
        self._require_store().put(variant)
        return variant

    def copy(self, source: str, destination: str) -> Variant:
        """Store `source` under another name; raises as `create` does."""
        name, found = self._require_free(destination), self._find(source)
        copied = replace(found, name=name, parent=found.parent or found.name, modified=round(time.time(), 3), stored=True)
        copied = replace(copied, settings=found.settings.model_copy(update={"parent": copied.parent}))
        self._require_store().put(copied)
        return copied

    def delete(self, name: str) -> None:
        """Delete a variant made through the API; raises `ModelNotFound`, `InvalidRequest` for configured ones, `StorageFailed`."""
        found = self._find(name)
        if not found.stored:
            raise InvalidRequest(f"'{found.name}' is part of the configuration; the operator removes it there", param="model")
        self._require_store().remove(found.name)

    def _find(self, name: str | None) -> Variant:
        if name is None:
            return self._own[normalize_name(self.default.name)]
        found = (
            self._own.get(normalize_name(name))
            or self._stored().get(normalize_name(name))
            or self._configured.get(normalize_name(name))
        )
        if found is None:
            served = ", ".join(variant.name for variant in self.variants)
            shown = shorten_name(name)
            raise ModelNotFound(f"The model '{shown}' does not exist. Served here: {served}.", model=shown, param="model")
        return found

    def _find_owner(self, variant: Variant) -> ServedModel:
        """Return the model that a variant derives from, over any number of parents; the default where a parent is gone."""
        if len(self._models) == 1:
            return self.default  # without a look at the stored names, which may be read from the disk each time
        seen = {normalize_name(variant.name)}
        while normalize_name(variant.name) not in self._owners:
            parent = normalize_name(variant.parent)
            found = self._own.get(parent) or self._stored().get(parent) or self._configured.get(parent)
            if found is None or parent in seen:
                return self.default
            seen.add(parent)
            variant = found
        return self._owners[normalize_name(variant.name)]

    def _find_groups(self, name: str | None, model: ServedModel) -> tuple[str, ...]:
        """Return the groups that may answer for a name.

        All names of one model are the same in `routing.models`; where several of them are listed, the client's own counts.
        """
        holding = tuple(group for group in self._settings.engines if self._settings.model_of(group) == model.name)
        asked = normalize_name(self.default.name if name is None else name)
        own = [each for each, owner in self._owners.items() if owner is model] if asked in self._owners else []
        allowed = next((self._allowed[each] for each in (asked, *own) if each in self._allowed), holding)
        return tuple(group for group in holding if group in allowed)

    def _stored(self) -> Mapping[str, Variant]:
        return self._store.all() if self._store is not None else {}

    def _require_store(self) -> VariantStore:
        if self._store is None:
            raise Unsupported("no models can be created or deleted here; the operator sets models_dir to allow it")
        return self._store

    def _require_free(self, name: str) -> str:
        name = require_name(name)
        if normalize_name(name) in self._own:
            raise InvalidRequest(f"'{name}' is the served model itself; choose another name", param="model")
        return name

    def _find_parent(self, name: str) -> Variant:
        if (
            name.startswith((".", "/", "~", "sha256:", "@"))
            or ".." in name
            or "://" in name
            or "\\" in name
            or name.endswith(".gguf")
        ):
            raise InvalidRequest("FROM takes the name of a served model, not a file, an address or a digest", param="from")
        return self._find(name)
