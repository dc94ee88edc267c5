"""Resolves the names that clients use to served models, variants and groups. Knows no engine and no dialect."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from serve_app.caller import ANONYMOUS, Caller
from serve_app.config import AUTO, AppSettings, RoutingSettings
from serve_app.errors import Forbidden, InvalidRequest, ModelNotFound, ModelUnusable, Unsupported
from serve_app.faults import client_faults
from serve_app.model_info import ModelInfo
from serve_app.model_names import normalize_name, require_name, shorten_name
from serve_app.models.blobs import BlobStore
from serve_app.models.encoder import EncoderModel
from serve_app.models.resolved import AnyModel, Resolved, no_encoder, require_encoder, require_generating
from serve_app.models.served import ServedModel
from serve_app.models.usable import require_usable
from serve_app.models.variant import Variant
from serve_app.models.variant_store import VariantStore
from serve_app.types import Task

_MOST_SHOWN = 20
"""Names that the error about an unknown model lists."""


class Catalog:
    """The names that clients may use: the served models', their aliases, configured variants, and those made through the API.

    Of equal names, one made through the API hides a configured one; the served models' own cannot be taken. Which names are equal:
    see `serve_app.model_names`.
    """

    def __init__(
        self,
        settings: AppSettings,
        models: Iterable[AnyModel],
        *,
        created: int,
        faults: Mapping[str, ModelUnusable] = MappingProxyType({}),
    ) -> None:
        """Take the configuration and the models that it names; `faults` say why the other ones cannot be served.

        `created` is the Unix time in seconds at which the application started, shown as the models' creation. Raises
        `InvalidRequest` for a variant without a served parent, `InvalidValue` for one that could answer nothing.
        """
        folder = None if settings.models_dir is None else Path(settings.models_dir).expanduser()
        self._settings = settings
        self.created = created
        self.blobs = BlobStore(None if folder is None else folder / "blobs")
        self._store = None if folder is None else VariantStore(folder)
        self._models = {model.name: model for model in models}
        self.faults = faults
        self._own: dict[str, Variant] = {}
        self._owners: dict[str, str] = {}
        """The models' own names by the keys of all their names."""
        for owner, wanted in settings.models.items():
            for name in (owner, *wanted.aliases):
                self._own.setdefault(normalize_name(name), Variant(name=name, root=owner, modified=created))
                self._owners.setdefault(normalize_name(name), owner)
        self.configure(settings.routing)
        self._configured: dict[str, Variant] = {}
        for name in settings.variants:
            self._configure_variant(name)

    def _require_model(self, name: str) -> AnyModel:
        if name in self._models:
            return self._models[name]
        raise self.faults.get(name) or ModelUnusable(f"the model '{name}' is about to be served; try again")

    def configure(self, routing: RoutingSettings) -> None:
        """Restrict names to groups, and choose models for `auto`, by other settings from now on."""
        self._routing = routing
        self._allowed = {normalize_name(name): groups for name, groups in routing.models.items()}

    def is_auto(self, name: str | None) -> bool:
        """Return whether the task chooses the model of requests for `name`."""
        if not self._routing.auto:
            return False
        return self._routing.auto_unnamed if name is None else normalize_name(name) == AUTO

    def _configure_variant(self, name: str) -> Variant:
        """Return a configured variant, made with its parents at the first call."""
        key = normalize_name(name)
        if key in self._configured:
            return self._configured[key]
        written, wanted = next(each for each in self._settings.variants.items() if normalize_name(each[0]) == key)
        changes = wanted.model_dump(exclude={"parent"}, exclude_unset=True)
        given = normalize_name(wanted.parent or self._settings.default_model)
        parent = self._own.get(given) or self._configure_variant(given)
        variant = replace(parent.derive(self._require_free(written), changes, self.created), stored=False)
        if variant.root in self._models:  # else nothing can count its tokens, and no request reaches it
            require_usable(variant, self._models[variant.root].count_least)
        self._configured[key] = variant
        return variant

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Every name that can be served, with what it adds to its model, the models' own first."""
        names = self._own | self._configured | dict(self._stored()) | self._own
        return tuple(each for key, each in names.items() if self._find_root(each) in self._models and not self.is_auto(key))

    def resolve(self, name: str | None, *, by_operator: bool = False, caller: Caller = ANONYMOUS) -> Resolved[ServedModel]:
        """Return what `resolve_any` does; raises `InvalidRequest` too, for an embedding model."""
        return require_generating(self.resolve_any(name, by_operator=by_operator, caller=caller))

    def resolve_encoder(self, name: str | None, caller: Caller = ANONYMOUS) -> Resolved[EncoderModel]:
        """Return the embedding model behind a name, None meaning the first one that `caller` may use.

        Raises as `resolve_any` does, and `InvalidRequest` for a model that generates, or where no embedding model is configured.
        """
        encoders = [each for each in self._settings.embedding_models if self.allows(each, caller)]
        if name is None:
            if not self._settings.embedding_models:
                raise no_encoder()
            return require_encoder(self.resolve_any((encoders or self._settings.embedding_models)[0], caller=caller), encoders)
        try:
            return require_encoder(self.resolve_any(name, caller=caller), encoders)
        except ModelNotFound:
            if self._settings.embedding_models:
                raise
            raise no_encoder() from None

    def resolve_any(self, name: str | None, *, by_operator: bool = False, caller: Caller = ANONYMOUS) -> Resolved[AnyModel]:
        """Return the model, variant and groups behind a `name`, None meaning the default model.

        The client wrote it, or with `by_operator` the configuration: a variant made through the API hides a configured one from
        clients, but does not change which model `auto` means.

        Raises `ModelNotFound`, `Forbidden` unless `caller` may use it, and `ModelUnusable` for a configured model that cannot be
        served.
        """
        variant = self._find(name, by_operator=by_operator, caller=caller)
        if not self._is_allowed(variant, caller):
            raise Forbidden(
                f"the API key '{caller.name}' may not use the model '{shorten_name(name or variant.name)}'; its models are: "
                f"{', '.join(caller.models)}",
                param="model",
            )
        model = self._find_owner(variant)
        held_by = tuple(group for group in self._settings.engines if self._settings.model_of(group) == model.name)
        return Resolved(model, variant, held_by, self._restrict(name, model, held_by))

    def allows(self, name: str | None, caller: Caller) -> bool:
        """Return whether `caller` may use the model behind a configured `name`; raises `ModelNotFound`."""
        return self._is_allowed(self._find(name, by_operator=True), caller)

    def require_writable(self, name: str, parent: str, caller: Caller) -> None:
        """Raise `Forbidden` unless `caller` may use `parent`, what `name` is now, if anything, and what it would become."""
        if not caller.models:
            return
        root = self.resolve_any(parent, caller=caller).model.name
        key = normalize_name(name)
        found = self._own.get(key) or self._stored().get(key) or self._configured.get(key)
        if not self._is_allowed(found or Variant(name=name, root=root, modified=self.created), caller):
            raise Forbidden(f"the API key '{caller.name}' may not use the name '{shorten_name(name)}'", param="model")

    def _is_allowed(self, variant: Variant, caller: Caller) -> bool:
        if not caller.models:
            return True
        listed, root = set(map(normalize_name, caller.models)), self._find_root(variant)
        return normalize_name(variant.name) in listed or any(self._owners.get(each) == root for each in listed)

    def find_model(self, name: str | None) -> str:
        """Return the own name of the model behind a configured `name`, whether it can be served or not; raises `ModelNotFound`."""
        return self._find_root(self._find(name, by_operator=True))

    def list(self, measure: Callable[[str], int], caller: Caller = ANONYMOUS) -> tuple[ModelInfo, ...]:
        """Return the description of every name that `caller` may use.

        `measure` returns the context in tokens of a model, by its own name.
        """
        found = tuple(self._describe(variant, measure) for variant in self.variants if self._is_allowed(variant, caller))
        return (*found, self._describe_auto(measure, caller)) if self._is_auto_served(caller) else found

    def describe(self, name: str | None, measure: Callable[[str], int], caller: Caller = ANONYMOUS) -> ModelInfo:
        """Return the description of a name for clients; raises as `resolve` does."""
        if self.is_auto(name):
            return self._describe_auto(measure, caller)
        return self._describe(self.resolve_any(name, caller=caller).variant, measure)

    def _is_auto_served(self, caller: Caller) -> bool:
        names = [*self._find_generating(), *map(self._routing.find_auto_model, Task)]
        may_use = not caller.models or any(self.allows(name, caller) for name in names)
        return bool(self._routing.auto) and may_use and self._is_usable(self._routing.find_auto_model(Task.GENERAL))

    def _find_generating(self) -> tuple[str, ...]:
        return tuple(name for name, model in self._models.items() if isinstance(model, ServedModel))

    def _is_usable(self, name: str | None) -> bool:
        return self.find_model(name) in self._models

    def _describe_auto(self, measure: Callable[[str], int], caller: Caller) -> ModelInfo:
        """Describe `auto` by the model for general tasks; its context is that of the model with the shortest one.

        In place of models that `caller` may not use stands the first one that it may.
        """
        names = {task: self._routing.find_auto_model(task) for task in Task}
        if caller.models:
            own = next((name for name in (*self._find_generating(), *names.values()) if self.allows(name, caller)), None)
            if own is None:
                raise Forbidden(f"the API key '{caller.name}' may use no model of 'auto'", param="model")
            names = {task: name if self.allows(name, caller) else own for task, name in names.items()}
        general = self.resolve(names[Task.GENERAL], by_operator=True)
        others = [self.resolve(name, by_operator=True).model for name in names.values() if self._is_usable(name)]
        tools = self.resolve(names[Task.TOOLS], by_operator=True).model if self._is_usable(names[Task.TOOLS]) else general.model
        capabilities = [each for each in general.model.capabilities if each != "tools"]
        return replace(
            self._describe(general.variant, measure),
            name=AUTO,
            root=AUTO,
            parent="",
            capabilities=(*capabilities, *(each for each in tools.capabilities if each == "tools")),
            context_length=min(measure(model.name) for model in others),
        )

    def _describe(self, variant: Variant, measure: Callable[[str], int]) -> ModelInfo:
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
            template=variant.settings.template or model.go_template,
            capabilities=model.capabilities,
            context_length=measure(model.name),
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
        if isinstance(self._find_owner(origin), EncoderModel):
            raise Unsupported(f"'{shorten_name(parent)}' is an embedding model, which has no prompts and parameters", param="from")
        template = changes.get("template")
        if template is not None and template.strip() == self._find_owner(origin).go_template.strip():
            changes = changes | {"template": ""}  # the model's own, written out
        try:
            variant = origin.derive(name, changes, round(time.time(), 3))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise InvalidRequest(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        with client_faults():
            require_usable(variant, self._find_owner(variant).count_least)
        self._require_store().put(variant)
        return variant

    def copy(self, source: str, destination: str) -> Variant:
        """Store `source` under another name; raises as `create` does."""
        name, found = self._require_free(destination), self._find_parent(source)
        parent, modified = found.parent or found.name, round(time.time(), 3)
        copied = replace(found, name=name, parent=parent, modified=modified, stored=True)
        copied = replace(copied, settings=found.settings.model_copy(update={"parent": copied.parent}))
        self._require_store().put(copied)
        return copied

    def delete(self, name: str) -> None:
        """Delete a variant made through the API; raises `ModelNotFound`, `InvalidRequest` for configured ones, `StorageFailed`."""
        found = self._stored().get(normalize_name(name)) if self.is_auto(name) else self._find(name)
        if found is None or not found.stored:
            raise InvalidRequest(f"'{name}' is part of the configuration; the operator removes it there", param="model")
        self._require_store().remove(found.name)

    def _find(self, name: str | None, *, by_operator: bool = False, caller: Caller = ANONYMOUS) -> Variant:
        """Return the variant behind a name; a name that the operator wrote is a configured one before one made through the API."""
        if name is None:
            return self._own[normalize_name(self._settings.default_model)]
        key = normalize_name(name)
        found = self._own.get(key) or (self._configured.get(key) if by_operator else None)
        found = found or self._stored().get(key) or self._configured.get(key)
        if found is None:
            shown, names = shorten_name(name), [each.name for each in self.variants if self._is_allowed(each, caller)]
            served = ", ".join(names[:_MOST_SHOWN]) + (f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else "")
            raise ModelNotFound(f"The model '{shown}' does not exist. Served here: {served}.", model=shown, param="model")
        return found

    def _find_owner(self, variant: Variant) -> AnyModel:
        """Return the model that a variant derives from; raises `ModelNotFound` where it is not configured any more."""
        root = self._find_root(variant)
        if root not in self._settings.models:
            raise ModelNotFound(
                f"The model '{variant.name}' derives from '{root or variant.parent}', which is not served any more. Delete it, or "
                "ask the operator to serve that model.",
                model=variant.name,
                param="model",
            )
        return self._require_model(root)

    def _find_root(self, variant: Variant) -> str:
        """Return the own name of a variant's model, over any number of parents where it has no `root`; empty: it is gone."""
        if variant.root:
            return self._owners.get(normalize_name(variant.root), variant.root)
        seen = {normalize_name(variant.name)}
        while (parent := normalize_name(variant.parent)) not in self._owners:
            found = self._stored().get(parent) or self._configured.get(parent)
            if found is None or parent in seen:
                return self._settings.default_model if len(self._settings.models) == 1 else ""
            seen.add(parent)
            variant = found
        return self._owners[parent]

    def _restrict(self, name: str | None, model: AnyModel, held_by: tuple[str, ...]) -> tuple[str, ...]:
        """Return the groups among `held_by` that may answer for a name.

        All names of one model are the same in `routing.models`; where several of them are listed, the client's own counts.
        """
        asked = normalize_name(model.name if name is None else name)
        own = [each for each, owner in self._owners.items() if owner == model.name] if asked in self._owners else []
        allowed = next((self._allowed[each] for each in (asked, *own) if each in self._allowed), held_by)
        return tuple(group for group in held_by if group in allowed)

    def _stored(self) -> Mapping[str, Variant]:
        return self._store.all() if self._store is not None else {}

    def _require_store(self) -> VariantStore:
        if self._store is None:
            raise Unsupported("no models can be created or deleted here; the operator sets models_dir to allow it")
        return self._store

    def _require_free(self, name: str) -> str:
        name = require_name(name)
        if self.is_auto(name):
            raise InvalidRequest("'auto' lets the task choose the model; choose another name", param="model")
        if normalize_name(name) in self._own:
            raise InvalidRequest(f"'{name}' is a served model's own name; choose another one", param="model")
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
        if self.is_auto(name):
            raise InvalidRequest("FROM takes the name of one model; 'auto' stands for several", param="from")
        found = self._find(name)
        return replace(found, root=self._find_root(found))
