"""Finds a model's files: the embedded ones, a local folder, or the hub's cache, downloading what is missing. Knows no engine."""

from pathlib import Path

from serve_app.config import ModelSettings
from serve_app.errors import ModelUnusable
from serve_app.models.checkpoint import find_missing_files

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
            raise ModelUnusable("the model's path holds no config.json; give a folder in Hugging Face layout")
        missing = find_missing_files(folder, weights=weights)
        if missing:
            raise ModelUnusable(f"the model's path lacks {' and '.join(missing)}; fetch the model again")
        return folder
    if model.path.startswith((".", "/", "~")) or model.path.count("/") != 1:
        raise ModelUnusable(
            "the model's path is no folder on this node; give 'embedded', a local folder or a hub id like owner/name"
        )
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
                f"the model's path: {model.path} could not be downloaded ({type(error).__name__}); "
                "check the name, the network and HF_TOKEN, or give a local folder"
            ) from error
        folder = Path(partial)
    missing = find_missing_files(folder, weights=weights)
    if missing:
        raise ModelUnusable(_not_cached(model.path, f"no {' and no '.join(missing)}", offline))
    return folder


def _not_cached(name: str, what: str, offline: bool) -> str:
    why = "HF_HUB_OFFLINE is set" if offline else "the hub has none or cannot be reached"
    return (
        f"the model's path: this node's hub cache has {what} of {name}, and {why}; run `hf download {name}` on it while the hub "
        "can be reached, or give a local folder"
    )
