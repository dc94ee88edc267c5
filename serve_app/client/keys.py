"""`phi-serve keys`: makes and changes the keys that the application asks for. Works on the file of keys; needs no server."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from serve_app.access.keys import FormerKey, Key, KeysUnusable, changing_keys, hash_key, make_key, now, read_keys
from serve_app.access_config import AccessSettings
from serve_app.caller import Priority, Scope
from serve_app.client.commands import print_table
from serve_app.client.configuration import Mistake, print_error, read_args

keys = typer.Typer(no_args_is_help=True, help="The keys that the application asks for.")
_DURATION = re.compile(r"(\d{1,5})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_Name = Annotated[str, typer.Argument(help="The key's name, which usage, metrics and logs show.")]
_File = Annotated[
    Path | None, typer.Option("--file", help="The file of keys; left out: access.keys_file of the configuration, or its default.")
]
_Config = Annotated[Path, typer.Option("--config", help="The configuration that names the file, where it exists.")]
_Models = Annotated[list[str] | None, typer.Option("--models", help="A model that it may use; repeat it for several. None: all.")]
_Scopes = Annotated[
    list[Scope] | None,
    typer.Option("--scope", help="What it may do; repeat it for both. operate: metrics, usage, models."),
]
_Requests = Annotated[int | None, typer.Option("--requests-per-minute", min=0, help="Generating requests; 0: no bound.")]
_Tokens = Annotated[int | None, typer.Option("--tokens-per-minute", min=0, help="Tokens of prompts and answers; 0: no bound.")]
_Concurrent = Annotated[int | None, typer.Option("--concurrent", min=0, help="Requests under way at once; 0: no bound.")]
_PriorityOption = Annotated[Priority | None, typer.Option("--priority", help="Whose requests are refused last under load.")]
_Expires = Annotated[str | None, typer.Option("--expires", help="When it ends: 12h, 30d, 2027-01-31, or never.")]


@keys.command("create")
def create(
    name: _Name,
    models: _Models = None,
    scope: _Scopes = None,
    requests_per_minute: _Requests = None,
    tokens_per_minute: _Tokens = None,
    concurrent: _Concurrent = None,
    priority: _PriorityOption = None,
    expires: _Expires = None,
    file: _File = None,
    config: _Config = Path("serve_config.yaml"),
) -> None:
    """Make a key and print it. It is shown this once; only its hash is kept."""
    with _reporting() as path_of, changing_keys(path_of(file, config)) as entries:
        if any(key.name == name for key in entries):
            raise Mistake(f"there is a key '{name}' already; `rotate` replaces it, `change` changes its limits")
        secret = make_key()
        changes = _read_changes(
            models=models,
            scope=scope,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            concurrent=concurrent,
            priority=priority,
            expires=expires,
        )
        entries.append(_build(name=name, sha256=hash_key(secret), created=now(), **changes))
    typer.echo(secret)


@keys.command("change")
def change(
    name: _Name,
    models: _Models = None,
    scope: _Scopes = None,
    requests_per_minute: _Requests = None,
    tokens_per_minute: _Tokens = None,
    concurrent: _Concurrent = None,
    priority: _PriorityOption = None,
    expires: _Expires = None,
    file: _File = None,
    config: _Config = Path("serve_config.yaml"),
) -> None:
    """Change what a key may do; the key itself stays. `--models all` removes the restriction."""
    with _reporting() as path_of, changing_keys(path_of(file, config)) as entries:
        at = _find(entries, name)
        changes = _read_changes(
            models=models,
            scope=scope,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            concurrent=concurrent,
            priority=priority,
            expires=expires,
        )
        entries[at] = _build(**(entries[at].model_dump() | changes))


@keys.command("list")
def show_list(file: _File = None, config: _Config = Path("serve_config.yaml")) -> None:
    """List the keys with their limits."""
    with _reporting() as path_of:
        found = read_keys(path_of(file, config)).keys
    rows = []
    for key in found:
        bounds = (key.requests_per_minute, key.tokens_per_minute, key.concurrent)
        shown = ["-" if bound is None else str(bound) for bound in bounds]
        rows.append((key.name, _show_state(key), ",".join(key.scopes), ",".join(key.models) or "all", *shown, str(key.priority)))
    print_table(("NAME", "STATE", "SCOPES", "MODELS", "REQ/MIN", "TOKENS/MIN", "CONCURRENT", "PRIORITY"), rows)


@keys.command("show")
def show(name: _Name, file: _File = None, config: _Config = Path("serve_config.yaml")) -> None:
    """Show what is kept of a key."""
    with _reporting() as path_of:
        entries = list(read_keys(path_of(file, config)).keys)
        key = entries[_find(entries, name)]
    for field, value in key.model_dump(mode="json", exclude_none=True).items():
        typer.echo(f"{field}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


@keys.command("rotate")
def rotate(
    name: _Name,
    keep: Annotated[str, typer.Option("--keep", help="How long the old key is still taken: 0s, 1h, 7d.")] = "0s",
    file: _File = None,
    config: _Config = Path("serve_config.yaml"),
) -> None:
    """Replace a key by a new one with the same rights, and print it; a revoked key is so replaced by a valid one."""
    with _reporting() as path_of, changing_keys(path_of(file, config)) as entries:
        at, secret = _find(entries, name), make_key()
        old = entries[at]
        if old.expires is not None and old.expires <= now():
            raise Mistake(f"the key '{name}' expired, and a new one would have too; `change {name} --expires ...` comes first")
        former = [each for each in old.former if each.expires > now()]
        if (ends := now() + _parse_duration(keep)) > now() and old.revoked is None:  # what was revoked stays so
            former.append(FormerKey(sha256=old.sha256, expires=ends))
        entries[at] = _build(**(old.model_dump() | {"sha256": hash_key(secret), "former": former, "revoked": None}))
    typer.echo(secret)


@keys.command("revoke")
def revoke(name: _Name, file: _File = None, config: _Config = Path("serve_config.yaml")) -> None:
    """End a key. Requests under way are finished; the next one is refused within seconds."""
    with _reporting() as path_of, changing_keys(path_of(file, config)) as entries:
        at = _find(entries, name)
        entries[at] = _build(**(entries[at].model_dump() | {"revoked": now(), "former": ()}))


def _find(entries: list[Key], name: str) -> int:
    for at, key in enumerate(entries):
        if key.name == name:
            return at
    known = ", ".join(key.name for key in entries) or "none"
    raise Mistake(f"there is no key '{name}'; the keys are: {known}")


def _build(**fields: Any) -> Key:
    try:
        return Key(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Mistake(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _read_changes(
    *,
    models: list[str] | None,
    scope: list[Scope] | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrent: int | None,
    priority: Priority | None,
    expires: str | None,
) -> dict[str, Any]:
    """Return the fields of a key that the operator gave."""
    changes: dict[str, Any] = {}
    if models is not None:
        names = [name.strip() for each in models for name in each.split(",") if name.strip()]
        if not names:  # an empty variable of a script must not mean all models
            raise Mistake("--models: no model is named; `--models all` means all")
        changes["models"] = () if names == ["all"] else tuple(names)
    if scope:
        changes["scopes"] = tuple(dict.fromkeys(scope))
    bounds = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "concurrent": concurrent}
    changes |= {name: bound or None for name, bound in bounds.items() if bound is not None}
    if priority is not None:
        changes["priority"] = priority
    if expires is not None:
        changes["expires"] = None if expires == "never" else _parse_end(expires)
    return changes


def _parse_end(given: str) -> datetime:
    """Return the moment that a date or a duration from now means."""
    if _DURATION.fullmatch(given):
        return now() + _parse_duration(given)
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise Mistake(f"--expires: '{given[:40]}' is neither a duration such as 30d nor a date such as 2027-01-31") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _parse_duration(given: str) -> timedelta:
    match = _DURATION.fullmatch(given)
    if match is None:
        raise Mistake(f"'{given[:40]}' is no duration; write 30s, 15m, 12h, 30d or 4w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _show_state(key: Key) -> str:
    if key.revoked is not None:
        return f"revoked {key.revoked:%Y-%m-%d}"
    if key.expires is None:
        return "valid"
    return f"{'expired' if key.expires <= now() else 'until'} {key.expires:%Y-%m-%d}"


@contextmanager
def _reporting() -> Iterator[Any]:
    """Yield the function that finds the file; print an operator's mistake as one sentence, and exit with 1."""
    try:
        yield _find_file
        return
    except KeysUnusable as error:
        problem = f"the file of keys cannot be used: {error}"
    except OSError as error:
        problem = f"{error.filename or 'the file of keys'}: {error.strerror}"
    except Mistake as error:
        problem = str(error)
    except ValueError:
        problem = "--file: this is no name of a file"
    print_error(problem)
    raise typer.Exit(1)


def _find_file(file: Path | None, config: Path) -> Path:
    """Return the file of keys; what the command line names wins over the configuration."""
    if file is not None:
        return file
    settings = AccessSettings()
    if config.exists():
        try:
            settings = AccessSettings.model_validate(read_args(config).get("access", {}))
        except ValidationError as error:
            raise Mistake(f"{config}: args.access: {error.errors()[0]['msg']}") from None
    return Path(settings.keys_file).expanduser()
