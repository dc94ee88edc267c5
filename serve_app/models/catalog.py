"""Finds a model's files and resolves the names that clients use. Knows no engine."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serve_app.config import AppSettings, ModelSettings
from serve_app.errors import InvalidRequest, ModelNotFound, ModelUnusable, Unsupported
from serve_app.faults import client_faults
from serve_app.models.blobs import BlobStore
from serve_app.models.checkpoint import missing_files
from serve_app.models.names import key, require_name, shown
from serve_app.models.usable import require_usable
from serve_app.models.variant import Variant
from serve_app.models.variant_store import VariantStore
from serve_app.models.weights import Weights

EMBEDDED = Path(__file__).parent / "embedded"
"""The small model that ships with the package."""
_TOKENIZER_FILES = ("*.json", "*.jinja")
_ALL_FILES = (*_TOKENIZER_FILES, "*.safetensors")


def locate(model: ModelSettings, *, weights: bool) -> Path:
    """Return the folder with the model's files, downloading from the hub if `path` is a hub id.

    Without `weights` only tokenizer and configuration are fetched. Raises `ModelUnusable` with what to do when it cannot be had.
    """
    if model.path == "embedded":
        return EMBEDDED
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelUnusable("model.path holds no config.json; give a folder in Hugging Face layout")
        missing = missing_files(folder, weights=weights)
        if missing:
            raise ModelUnusable(f"model.path lacks {' and '.join(missing)}; fetch the model again")
        return folder
    if model.path.startswith((".", "/", "~")) or model.path.count("/") != 1:
        raise ModelUnusable("model.path is no folder on this node; give 'embedded', a local folder or a hub id like owner/name")
    return _download(model, weights=weights)


def _download(model: ModelSettings, *, weights: bool) -> Path:
    """Return the snapshot in the hub's cache, which where HF_HUB_OFFLINE is set must have it. Never fetches Python files."""
    from huggingface_hub import constants, snapshot_download  # slow to import, and needed for hub ids only

    offline = bool(constants.HF_HUB_OFFLINE)
    patterns = list(_ALL_FILES if weights else _TOKENIZER_FILES)
    try:
        folder = Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))
    except Exception as error:  # the hub's, its HTTP client's and the disk's have no class in common
        partial = getattr(error, "snapshot_path", None)  # the hub cannot be reached, and knows of files that are not here
        if partial is None and offline:
            raise ModelUnusable(_not_cached(model.path, "nothing", offline)) from error
        if partial is None:
            raise ModelUnusable(
                f"model.path: {model.path} could not be downloaded ({type(error).__name__}); "
                "check the name, the network and HF_TOKEN, or give a local folder"
            ) from error
        folder = Path(partial)
    missing = missing_files(folder, weights=weights)
    if missing:
        raise ModelUnusable(_not_cached(model.path, f"no {' and no '.join(missing)}", offline))
    return folder


def _not_cached(name: str, what: str, offline: bool) -> str:
    why = "HF_HUB_OFFLINE is set" if offline else "the hub has none or cannot be reached"
    return (
        f"model.path: this node's hub cache has {what} of {name}, and {why}; run `hf download {name}` on it while the hub can be "
        "reached, or give a local folder"
    )


class Catalog:
    """The names under which the model is served: its own, aliases, configured variants, and those made through the API.

    Of equal names, one made through the API hides a configured one; the served model's own cannot be taken. Which names are equal:
    see `serve_app.models.names`.
    """

    def __init__(self, settings: AppSettings, weights: Weights, *, created: int) -> None:
        """Take the configuration; raises `InvalidRequest` for a variant that derives from nothing served.

        `created` is Unix time in seconds at which the app started, shown as the model's creation.
        """
        folder = None if settings.models_dir is None else Path(settings.models_dir).expanduser()
        self.settings = settings.model
        self.weights = weights
        self.created = created
        self.count_tokens: Callable[[str], int] | None = None
        """Returns the tokens of a text, so that prompts of new models can be measured; the gateway sets it."""
        self.blobs = BlobStore(None if folder is None else folder / "blobs")
        self._store = None if folder is None else VariantStore(folder)
        self._own = {key(name): Variant(name=name, modified=created) for name in (self.settings.name, *self.settings.aliases)}
        self._configured: dict[str, Variant] = {}
        for name, wanted in settings.variants.items():
            if key(name) in self._configured:
                raise InvalidRequest(f"variants: '{name}' and '{self._configured[key(name)].name}' are the same name")
            changes = wanted.model_dump(exclude={"parent"}, exclude_unset=True)
            derived = self._parent(wanted.parent or self.settings.name).derived(self._free(name), changes, created)
            self._configured[key(name)] = replace(derived, stored=False)

    @property
    def models(self) -> tuple[Variant, ...]:
        """Every served name, the model's own first."""
        return tuple((self._own | self._configured | dict(self._stored()) | self._own).values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names alone."""
        return tuple(model.name for model in self.models)

    def resolve(self, model: str | None) -> Variant:
        """Return what a client asked for, None meaning the served model; raises `ModelNotFound`."""
        if model is None:
            return self._own[key(self.settings.name)]
        found = self._own.get(key(model)) or self._stored().get(key(model)) or self._configured.get(key(model))
        if found is None:
            served = ", ".join(self.names)
            raise ModelNotFound(
                f"The model '{shown(model)}' does not exist. Served here: {served}.", model=shown(model), param="model"
            )
        return found

    def equal_names(self, model: str | None) -> tuple[str, ...]:
        """Return the keys of all names of the model that a client asked for, the one that it used first."""
        own = tuple(self._own)
        asked = own[0] if model is None else key(model)
        return (asked, *(name for name in own if name != asked)) if asked in self._own else (asked,)

    def create(self, name: str, parent: str, changes: dict[str, Any]) -> Variant:
        """Store a variant of `parent`, in place of one of that name; `changes` are settings by name.

        Raises `InvalidRequest` for a bad or taken name and for settings that are bad or that no request could use, `ModelNotFound`
        for the parent, `StorageFailed`.
        """
        name = self._free(name)
        try:
            variant = self._parent(parent).derived(name, changes, round(time.time(), 3))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise InvalidRequest(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
        with client_faults():
            require_usable(variant, self.count_tokens)
        self._writable().put(variant)
        return variant

    def copy(self, source: str, destination: str) -> Variant:
        """Store `source` under another name; raises as `create` does."""
        name, found = self._free(destination), self.resolve(source)
        copied = replace(found, name=name, parent=found.parent or found.name, modified=round(time.time(), 3), stored=True)
        copied = replace(copied, settings=found.settings.model_copy(update={"parent": copied.parent}))
        self._writable().put(copied)
        return copied

    def delete(self, name: str) -> None:
        """Delete a variant made through the API; raises `ModelNotFound`, `InvalidRequest` for configured ones, `StorageFailed`."""
        found = self.resolve(name)
        if not found.stored:
            raise InvalidRequest(f"'{found.name}' is part of the configuration; the operator removes it there", param="model")
        self._writable().remove(found.name)

    def _stored(self) -> Mapping[str, Variant]:
        return self._store.all() if self._store is not None else {}

    def _writable(self) -> VariantStore:
        if self._store is None:
            raise Unsupported("no models can be created or deleted here; the operator sets models_dir to allow it")
        return self._store

    def _free(self, name: str) -> str:
        name = require_name(name)
        if key(name) in self._own:
            raise InvalidRequest(f"'{name}' is the served model itself; choose another name", param="model")
        return name

    def _parent(self, name: str) -> Variant:
        if (
            name.startswith((".", "/", "~", "sha256:", "@"))
            or ".." in name
            or "://" in name
            or "\\" in name
            or name.endswith(".gguf")
        ):
            raise InvalidRequest("FROM takes the name of a served model, not a file, an address or a digest", param="from")
        return self.resolve(name)
