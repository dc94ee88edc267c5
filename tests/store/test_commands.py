"""`phi-serve state export` and `import`, and the settings that say where the state is."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner, Result

from serve_app.cli import app
from serve_app.config import AppSettings
from serve_app.store.base import Addition
from serve_app.store.registry import build_store
from serve_app.store.sqlite import SqliteStore
from serve_app.store_config import RedisSettings, SqliteSettings
from tests.store.servers import RedisServer

ENGINES = {"engines": {"a": {"kind": "fake"}}}


def _write(tmp_path: Path, name: str, store: dict[str, Any]) -> Path:
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"applications": [{"args": ENGINES | {"store": store}}]}))
    return file


def _run(*arguments: object, text: str | None = None) -> Result:
    return CliRunner().invoke(app, ["state", *map(str, arguments)], input=text)


def _fill(folder: Path) -> None:
    async def fill() -> None:
        store = SqliteStore(folder)
        await store.put("r/1", b"text")
        await store.add([Addition("u", 5)])
        await store.close()

    asyncio.run(fill())


def test_a_state_moves_from_sqlite_to_redis_and_back(
    tmp_path: Path, running_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_URL", running_redis.url)
    (tmp_path / "url").write_text(f"{running_redis.url}\n")
    sqlite = _write(tmp_path, "sqlite", {"kind": "sqlite", "path": str(tmp_path / "state")})
    by_env = _write(tmp_path, "env", {"kind": "redis", "url_env": "STORE_URL", "prefix": tmp_path.name})
    by_file = _write(tmp_path, "file", {"kind": "redis", "url_file": str(tmp_path / "url"), "prefix": tmp_path.name})
    other = _write(tmp_path, "other", {"kind": "sqlite", "path": str(tmp_path / "other")})
    _fill(tmp_path / "state")
    out = tmp_path / "out.jsonl"
    exported = _run("export", out, "--config", sqlite)
    assert (exported.exit_code, exported.stderr) == (0, "exported 2 items\n")
    assert out.stat().st_mode & 0o777 == 0o600
    assert _run("import", out, "--config", by_env).stderr == "imported 2 items\n"
    through = _run("export", "-", "--config", by_file)
    assert through.stdout == out.read_text()
    assert _run("import", "-", "--config", other, text=through.stdout).exit_code == 0
    assert _run("export", "-", "--config", other).stdout == out.read_text()
    assert _run("export", out, "--config", sqlite).stderr.split()[-2:] == ["File", "exists"]


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    sqlite = _write(tmp_path, "sqlite", {"kind": "sqlite", "path": str(tmp_path / "state")})
    unset = _write(tmp_path, "unset", {"kind": "redis", "url_env": "NO_SUCH_VARIABLE"})
    away = _write(tmp_path, "away", {"kind": "redis", "url_file": str(tmp_path / "url")})
    wrong = _write(tmp_path, "wrong", {"kind": "redis"})
    (tmp_path / "url").write_text(f"unix://{tmp_path}/nobody.sock")
    (tmp_path / "damaged").write_text("{}\n")
    for arguments, message in (
        (("import", tmp_path / "damaged", "--config", sqlite), "line 1: this is no state"),
        (("import", tmp_path / "missing", "--config", sqlite), "No such file"),
        (("export", tmp_path / "out", "--config", unset), "NO_SUCH_VARIABLE is not set"),
        (("export", tmp_path / "out", "--config", away), "the store is away"),
        (("export", tmp_path / "out", "--config", wrong), "args.store: Value error, store: give one of url_env and url_file"),
        (("export", tmp_path / "out", "--config", tmp_path / "url"), "does not have the structure"),
    ):
        done = _run(*arguments)
        assert done.exit_code == 1
        assert done.stderr.startswith("error: ")
        assert message in " ".join(done.stderr.split())
        assert not (tmp_path / "out").exists()


def test_the_default_is_a_file_of_this_machine() -> None:
    settings = AppSettings.model_validate(ENGINES)
    assert settings.store == SqliteSettings(path="~/.local/share/phi-serve/state")
    assert isinstance(build_store(settings.store), SqliteStore)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "redis"},
        {"kind": "redis", "url_env": "A", "url_file": "b"},
        {"kind": "redis", "url": "redis://secret@host"},
        {"kind": "redis", "url_env": "A", "prefix": "a b"},
        {"kind": "sqlite", "url_env": "A"},
        {"kind": "postgres"},
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="store"):
        AppSettings.model_validate(ENGINES | {"store": given})


def test_a_url_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("http://:sesame@host")
    with pytest.raises(ValueError, match="must begin with") as caught:
        build_store(RedisSettings(kind="redis", url_file=str(tmp_path / "url")))
    assert "sesame" not in str(caught.value)
