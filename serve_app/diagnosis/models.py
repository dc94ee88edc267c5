"""Checks that the models' files are on this machine, or that the hub can be reached where they are not."""

from collections.abc import Callable, Iterator
from pathlib import Path

from serve_app.config import AppSettings
from serve_app.diagnosis.checks import Check, fail, ok
from serve_app.models.checkpoint import find_missing_files
from serve_app.models.export import needs_checkpoint
from serve_app.validation.hub import find_folder, is_hub_id


def check_models(settings: AppSettings, reaches_hub: Callable[[], bool]) -> Iterator[Check]:
    """Yield where each model's files are; `reaches_hub` is asked only for a hub id whose files are not all in the cache."""
    needing = {settings.model_of(name) for name, group in settings.engines.items() if needs_checkpoint(group)}
    for name, model in settings.models.items():
        yield _check_model(f"model {name}", model.path, reaches_hub, weights=name in needing)


def _check_model(subject: str, path: str, reaches_hub: Callable[[], bool], *, weights: bool) -> Check:
    folder = find_folder(path)
    missing = _find_missing(folder, weights=weights)
    if folder is not None and not missing:
        return ok(subject, "the small model of the package" if path == "embedded" else f"its files are in {folder}")
    lacks = f"{folder} lacks {' and '.join(missing)}" if folder is not None else f"nothing of {path} is on this machine"
    if not is_hub_id(path) or Path(path).expanduser().is_dir():
        return fail(subject, lacks, "give `embedded`, a whole folder in Hugging Face layout, or a hub id like owner/name")
    if reaches_hub():
        return ok(subject, f"{lacks}; the hub can be reached, and the first start downloads it")
    fix = f"run `hf download {path}` while the hub can be reached, or copy the cache from another machine"
    return fail(subject, f"{lacks}, and the hub cannot be reached", fix)


def _find_missing(folder: Path | None, *, weights: bool) -> list[str]:
    return [] if folder is None else list(find_missing_files(folder, weights=weights))
