"""Finds a model's files and resolves the names that clients use. Knows no engine."""

from dataclasses import dataclass, field
from pathlib import Path

from serve_app.config import ModelSettings
from serve_app.errors import EngineDead, ModelNotFound

EMBEDDED = Path(__file__).parent / "embedded"
"""The small model that ships with the package."""
_TOKENIZER_FILES = ("*.json", "*.jinja")
_ALL_FILES = (*_TOKENIZER_FILES, "*.safetensors")


def locate(model: ModelSettings, *, weights: bool) -> Path:
    """Return the folder with the model's files, downloading from the hub if `path` is a hub id.

    Without `weights` only tokenizer and configuration are fetched. Raises `EngineDead` with what to do when it cannot be had.
    """
    if model.path == "embedded":
        return EMBEDDED
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise EngineDead("model.path holds no config.json; give a folder in Hugging Face layout")
        return folder
    if model.path.startswith((".", "/", "~")) or model.path.count("/") != 1:
        raise EngineDead("model.path is no folder on this node; give 'embedded', a local folder or a hub id like owner/name")
    return _download(model, weights=weights)


def _download(model: ModelSettings, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and needed for hub ids only
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = list(_ALL_FILES if weights else _TOKENIZER_FILES)
    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EngineDead(
            f"model.path: {model.path} could not be downloaded ({type(error).__name__}); "
            "check the name, the network and HF_TOKEN, or give a local folder"
        ) from error


@dataclass(frozen=True)
class Catalog:
    """The served names."""

    settings: ModelSettings
    created: int
    """Unix time in seconds at which the app started, shown as the model's creation."""
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Collect name and aliases, without repeats, the name first."""
        object.__setattr__(self, "names", tuple(dict.fromkeys((self.settings.name, *self.settings.aliases))))

    def resolve(self, model: str | None) -> str:
        """Return the served name for what a client asked, None meaning the default; raises `ModelNotFound`."""
        if model is None or model in self.names:
            return self.settings.name
        shown = model if len(model) <= 100 else model[:100] + "..."
        raise ModelNotFound(f"The model '{shown}' does not exist. Served here: {', '.join(self.names)}.", param="model")
