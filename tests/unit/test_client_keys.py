"""`phi-serve keys` and `phi-serve usage` against the application over HTTP, as an operator and a user type them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from serve_app.cli import app as command
from tests.unit.app import running


@pytest.fixture(autouse=True)
def rereads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let changes of the file count after 50 ms instead of a second."""
    monkeypatch.setattr("serve_app.access.keys._REREAD_S", 0.05)


HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


class Console:
    """Runs commands for one file of keys and one server."""

    def __init__(self, file: Path, url: str) -> None:
        self.file, self.url = file, url

    async def keys(self, *words: str) -> str:
        """Return what `phi-serve keys` prints; it must succeed."""
        code, output, errors = await self.run(None, "keys", *words, "--file", str(self.file))
        assert code == 0, errors
        return output.strip()

    async def run(self, key: str | None, *words: str, variable: str = "PHI_SERVE_API_KEY") -> tuple[int, str, str]:
        """Return exit code, output and error output of a command, `key` in its environment."""
        environment = {"PHI_SERVE_HOST": self.url, "PHI_SERVE_API_KEY": None, "OLLAMA_API_KEY": None, variable: key}
        result = await asyncio.to_thread(CliRunner().invoke, command, words, env=environment)
        return result.exit_code, result.stdout, " ".join(result.stderr.split())


@asynccontextmanager
async def _console(folder: Path) -> AsyncIterator[Console]:
    """Serve the application, which finds its first key when the test makes it, on a port of its own."""
    file = folder / "keys.json"
    access = {"access": {"keys_file": str(file), "journal_dir": None}, "models_dir": str(folder / "models")}
    async with running(access, a={}) as app:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app.asgi.app, log_level="error", lifespan="off"))
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield Console(file, f"http://127.0.0.1:{listener.getsockname()[1]}")
            finally:
                server.should_exit = True
                await serving


async def _ask(console: Console, key: str) -> int:
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{console.url}/v1/chat/completions", json=HI, headers={"authorization": f"Bearer {key}"} if key else {}
        )
    return answer.status_code


async def test_from_no_keys_to_usage(tmp_path: Path) -> None:
    async with _console(tmp_path) as console:
        assert await _ask(console, "") == 200
        alice = await console.keys("create", "alice", "--requests-per-minute", "100")
        root = await console.keys("create", "root", "--scope", "use", "--scope", "operate")
        await asyncio.sleep(0.1)
        assert [await _ask(console, key) for key in ("", alice, alice, root)] == [401, 200, 200, 200]
        code, _, errors = await console.run(None, "list")
        assert (code, "PHI_SERVE_API_KEY" in errors) == (1, True)
        for variable in ("PHI_SERVE_API_KEY", "OLLAMA_API_KEY"):
            code, listed, _ = await console.run(alice, "list", variable=variable)
            assert (code, "phi-4-mini-instruct:latest" in listed) == (0, True)
        code, shown, _ = await console.run(root, "usage")
        rows = {line.split()[0]: line.split()[1:3] for line in shown.splitlines()[1:]}
        assert (code, rows) == (
            0,
            {name: ["phi-4-mini-instruct", count] for name, count in (("alice", "2"), ("anonymous", "1"), ("root", "1"))},
        )
        code, shown, _ = await console.run(alice, "usage", "--by-day")
        assert [line.split()[:4] for line in shown.splitlines()[1:]] == [
            ["alice", "phi-4-mini-instruct", datetime.now(UTC).date().isoformat(), "2"]
        ]
        assert (await console.run(root, "usage", "--key", "alice", "--since", "2999-01-01"))[1].count("\n") == 1
        code, _, errors = await console.run(alice, "usage", "--key", "root")
        assert (code, "operate" in errors) == (1, True)
        code, _, errors = await console.run(root, "usage", "--since", "soon")
        assert (code, "2026-11-30" in errors) == (1, True)
        code, _, errors = await console.run(alice, "cp", "phi-4-mini-instruct", "mine")
        assert (code, "operate" in errors) == (1, True)
        assert (await console.run(root, "cp", "phi-4-mini-instruct", "mine"))[0] == 0


async def test_a_keys_life(tmp_path: Path) -> None:
    async with _console(tmp_path) as console:
        first = await console.keys("create", "bob", "--models", "phi-4-mini-instruct", "--expires", "30d", "--priority", "batch")
        listed = await console.keys("list")
        assert [word in listed for word in ("bob", "until", "batch", "phi-4-mini-instruct", first)] == [True] * 4 + [False]
        shown = await console.keys("show", "bob")
        assert "priority: batch" in shown
        assert first not in shown
        second = await console.keys("rotate", "bob", "--keep", "1h")
        await asyncio.sleep(0.1)
        assert [await _ask(console, key) for key in (first, second)] == [200, 200]
        await console.keys("change", "bob", "--requests-per-minute", "1", "--expires", "never")
        third = await console.keys("rotate", "bob")
        await asyncio.sleep(0.1)
        statuses = [await _ask(console, key) for key in (second, first, third, third)]
        assert statuses[0] == 401
        assert sorted(statuses[1:]) == [200, 429, 429]
        await console.keys("revoke", "bob")
        await asyncio.sleep(0.1)
        assert [await _ask(console, key) for key in (first, second, third)] == [401, 401, 401]
        assert "revoked" in await console.keys("list")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "bob"), "already"),
        (("create", "b b"), "name"),
        (("create", "x", "--expires", "soon"), "30d"),
        (("show", "eve"), "the keys are: bob"),
        (("revoke", "eve"), "the keys are: bob"),
        (("rotate", "bob", "--keep", "long"), "duration"),
        (("change", "bob", "--models", ""), "all"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    file = tmp_path / "keys.json"
    assert CliRunner().invoke(command, ["keys", "create", "bob", "--file", str(file)]).exit_code == 0
    before = file.read_bytes()
    result = CliRunner().invoke(command, ["keys", *words, "--file", str(file)])
    assert (result.exit_code, said in " ".join(result.stderr.split())) == (1, True), result.stderr
    assert "Traceback" not in result.output
    assert file.read_bytes() == before


def test_the_configuration_names_the_file(tmp_path: Path) -> None:
    config, file = tmp_path / "serve_config.yaml", tmp_path / "elsewhere.json"
    config.write_text(f"applications: [{{args: {{access: {{keys_file: {file}}}}}}}]")
    assert CliRunner().invoke(command, ["keys", "create", "bob", "--config", str(config)]).exit_code == 0
    assert file.exists()
    config.write_text("applications: [{args: {access: {keys: x}}}]")
    result = CliRunner().invoke(command, ["keys", "list", "--config", str(config)])
    assert (result.exit_code, "args.access" in result.stderr) == (1, True)
