"""`phi-serve state`: the store's whole state into a file and back."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from serve_app.client.configuration import Mistake, print_error, read_args
from serve_app.errors import ServeError
from serve_app.store.base import Store
from serve_app.store.registry import build_store
from serve_app.store.transfer import MAX_LINE_CHARS, export_state, import_state
from serve_app.store_config import RedisSettings, SqliteSettings, StoreSettings

state = typer.Typer(no_args_is_help=True, help="What the application keeps: usage, quotas, stored responses.")
_console = Console(stderr=True)
_ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration, whose `args.store` says where the state is.")]


@state.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="The file to write, which must not exist; - writes standard output.")],
    config: _ConfigFile = Path("serve_config.yaml"),
) -> None:
    """Write the state as JSON lines. It holds users' texts."""

    async def write() -> int:
        lines = 0
        with _create(file) as out:
            async with _opened(config) as store:
                async for line in export_state(store):
                    out.write(line)
                    lines += 1
        return lines - 2

    _console.print(f"exported {_run(write)} items", highlight=False)


@state.command("import")
def load(
    file: Annotated[Path, typer.Argument(help="A file of `phi-serve state export`; - reads standard input.")],
    config: _ConfigFile = Path("serve_config.yaml"),
) -> None:
    """Write an exported state into the store. Stop the application first; repeat the command if it was interrupted."""

    async def read() -> int:
        source = sys.stdin if str(file) == "-" else file.open(encoding="utf-8")
        with closing(source):
            async with _opened(config) as store:
                return await import_state(store, iter(lambda: source.readline(MAX_LINE_CHARS + 1), ""))

    _console.print(f"imported {_run(read)} items", highlight=False)


def _run(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    try:
        return asyncio.run(work())
    except ServeError as error:
        problem = error.message
    except OSError as error:
        problem = f"{error.filename or 'the file'}: {error.strerror}"
    except (Mistake, ValueError) as error:
        problem = str(error)
    print_error(problem)
    raise typer.Exit(1)


@asynccontextmanager
async def _opened(config: Path) -> AsyncIterator[Store]:
    store = build_store(_read_settings(config))
    try:
        yield store
    finally:
        await store.close()


def _read_settings(config: Path) -> SqliteSettings | RedisSettings:
    """Return `args.store` of the file's application."""
    adapter: TypeAdapter[SqliteSettings | RedisSettings] = TypeAdapter(StoreSettings)
    try:
        return adapter.validate_python(read_args(config).get("store", {"kind": "sqlite"}))
    except ValidationError as error:
        raise Mistake(f"{config}: args.store: {error.errors()[0]['msg']}") from error


@contextmanager
def _create(file: Path) -> Iterator[TextIO]:
    """Open a new file that only this user can read; it is removed if writing fails."""
    if str(file) == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    out = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8")
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
