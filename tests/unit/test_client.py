"""The verbs of `phi-serve` over a real socket, and the conversation at the terminal."""

import asyncio
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from serve_app.cli import app as command
from serve_app.client.repl import Session, converse, stream_answer
from serve_app.client.server import ClientError, Server
from tests.unit.app import App, running

MODELFILE = 'FROM phi4-mini\nPARAMETER temperature 0.5\nSYSTEM """Be brief.\nBe kind."""\n'


@asynccontextmanager
async def _listening(folder: Path, **engine: object) -> AsyncIterator[tuple[App, str]]:
    """Serve the application over fake engines on a port of its own."""
    async with running({"models_dir": str(folder / "models")}, a={"text": "Yes."} | engine) as app:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app.asgi.app, log_level="error", lifespan="off"))
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield app, f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serving


async def _phi(url: str, *words: str, stdin: str | None = None) -> tuple[int, str, str]:
    """Run a verb off the loop; return its exit code, output and error output."""
    result = await asyncio.to_thread(CliRunner().invoke, command, words, input=stdin, env={"PHI_SERVE_HOST": url})
    return result.exit_code, result.stdout, result.stderr


async def test_the_verbs(tmp_path: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text(MODELFILE)
    async with _listening(tmp_path) as (app, url):
        assert (await _phi(url, "create", "mine", "-f", str(file)))[:2] == (
            0,
            (await _phi(url, "create", "mine", "-f", str(file)))[1],
        )
        assert app.gateway.catalog.resolve("mine").variant.settings.system == "Be brief.\nBe kind."
        assert (await _phi(url, "create", "piped", "-f", "-", stdin=MODELFILE))[1].endswith("success\n")
        code, listed, _ = await _phi(url, "list")
        assert code == 0
        assert {"mine:latest", "piped:latest", "phi4-mini:latest"} <= {line.split()[0] for line in listed.splitlines()}
        assert "temperature" in (await _phi(url, "show", "mine"))[1]
        shown = (await _phi(url, "show", "mine", "--modelfile"))[1]
        assert (await _phi(url, "create", "again", "-f", "-", stdin=shown))[0] == 0
        assert app.gateway.catalog.resolve("again").variant.settings == app.gateway.catalog.resolve("mine").variant.settings
        assert (await _phi(url, "show", "mine", "--system"))[1] == "Be brief.\nBe kind.\n"
        assert (await _phi(url, "cp", "mine", "other"))[0] == 0
        assert (await _phi(url, "rm", "mine", "other"))[1] == "deleted mine\ndeleted other\n"
        assert "mine" not in {variant.name for variant in app.gateway.catalog.variants}
        told = (await _phi(url, "ps"))[1]
        assert "a (fake none) x 1" in told
        assert "forever" in told


async def test_one_question(tmp_path: Path) -> None:
    async with _listening(tmp_path) as (app, url):
        assert (await _phi(url.removeprefix("http://"), "run", "phi4-mini", "How", "are", "you?"))[:2] == (0, "Yes.\n")
        code, told, _ = await _phi(url, "run", "phi4-mini", "Read:", "--verbose", stdin="a file\n")
        assert code == 0
        assert told.startswith("Yes.\n\ntotal ")
        assert "answer   " in told
        tokenizer = app.gateway.catalog.resolve(None).model.tokenizer
        prompts = [b"".join(map(tokenizer.raw, request.prompt)).decode() for request in app.engines["a"].requests]
    assert prompts[0] == "<|user|>How are you?<|end|><|assistant|>"
    assert prompts[1] == "<|user|>Read:\n\na file<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rm", "nope"), "model 'nope' not found"),
        (("show", "nope"), "model 'nope' not found"),
        (("run", "nope", "hi"), "model 'nope' not found"),
        (("create", "x", "-f", "nowhere"), "nowhere cannot be read: No such file"),
        (("create", "phi4-mini", "-f", "-"), "no FROM line"),
    ],
)
async def test_faults_are_told_in_a_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    async with _listening(tmp_path) as (_, url):
        code, told, fault = await _phi(url, *words, stdin="")
    assert (code, told) == (1, "")
    assert fault.startswith("error: ")
    assert said in fault.replace("\n", " ")


async def test_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    code, _, fault = await _phi(f"127.0.0.1:{port}", "list")
    assert code == 1
    assert "nothing answers at" in fault


async def test_an_error_midway_is_an_error(tmp_path: Path) -> None:
    async with _listening(tmp_path, text="one two three four five", fault="die_midway") as (_, url):
        session = Session(server=Server(url), model="phi4-mini")
        said: list[str] = []
        with pytest.raises(ClientError, match="configured to die"):
            await asyncio.to_thread(stream_answer, session, "hi", said.append)
    assert not session.messages


def _reader(lines: list[str]) -> Callable[[str], str]:
    left = iter(lines)

    def read(prompt: str) -> str:
        for line in left:
            return line
        raise EOFError

    return read


async def _converse(url: str, *lines: str) -> tuple[Session, str]:
    session, said = Session(server=Server(url), model="phi4-mini"), list[str]()
    await asyncio.to_thread(converse, session, _reader(list(lines)), said.append)
    return session, "".join(said)


async def test_a_conversation_has_a_history(tmp_path: Path) -> None:
    async with _listening(tmp_path) as (app, url):
        session, _ = await _converse(url, "one", '"""two', 'lines"""', "/bye", "never")
        prompt = b"".join(map(app.gateway.catalog.resolve(None).model.tokenizer.raw, app.engines["a"].requests[-1].prompt)).decode()
        assert prompt == "<|user|>one<|end|><|assistant|>Yes.<|end|><|user|>two\nlines<|end|><|assistant|>"
        assert [message["content"] for message in session.messages] == ["one", "Yes.", "two\nlines", "Yes."]
        await _converse(url, "/set nohistory", "one", "two", "/set history", "three", "/clear", "four")
        prompt = b"".join(map(app.gateway.catalog.resolve(None).model.tokenizer.raw, app.engines["a"].requests[-1].prompt)).decode()
        assert prompt == "<|user|>four<|end|><|assistant|>"


async def test_commands(tmp_path: Path) -> None:
    async with _listening(tmp_path) as (app, url):
        script = (
            "/set parameter temperature 0.25", "/set parameter stop es.", "/set parameter num_predict 9",
            "/set parameter temperature hot", "/set parameter colour red", "/set parameter seed",
            '/set system """Be', 'brief."""', "/set verbose", "hi", "/show system", "/show parameters", "/show info",
            "/show modelfile", "/show nothing", "/set nonsense", "/nonsense", "/?", "/set format json",
            "/set noformat", "/set quiet",
        )  # fmt: skip
        session, said = await _converse(url, *script)
        request = app.engines["a"].requests[-1]
        prompt = b"".join(map(app.gateway.catalog.resolve(None).model.tokenizer.raw, request.prompt)).decode()
    assert prompt == "<|system|>Be\nbrief.<|end|><|user|>hi<|end|><|assistant|>"
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.25, 9)
    assert session.options == {"temperature": 0.25, "stop": ["es."], "num_predict": 9}
    for expected in (
        "temperature must be of type float", "colour is no known parameter", "usage: /set parameter NAME VALUE\n",
        "\nY\n\ntotal ", "\nBe\nbrief.\n", "(set here)", "phi3", "FROM phi4-mini", "usage: /show",
        "usage: /set parameter NAME VALUE, ",
        "no command /nonsense", "/bye ", "answers are JSON", "answers are free", "times are not shown",
    ):  # fmt: skip
        assert expected in said
    assert session.format == ""


async def test_at_a_real_terminal(tmp_path: Path) -> None:
    """Ctrl-C ends an answer and not the conversation; Ctrl-D leaves."""
    async with _listening(tmp_path, text="one two three four five six seven eight nine ten", tokens_per_second=3) as (app, url):
        await asyncio.to_thread(_play_terminal, url)
        async with asyncio.timeout(10):
            while app.gateway.active:  # the broken connection ends the generation
                await asyncio.sleep(0.05)


def _play_terminal(url: str) -> None:
    near, far = pty.openpty()
    program = "from serve_app.cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", "phi4-mini", "--url", url],
        stdin=far, stdout=far, stderr=far, start_new_session=True, preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(far)
    try:
        _expect(near, ">>> ")
        os.write(near, b"count\n")
        _expect(near, "one")
        os.write(near, b"\x03")
        _expect(near, ">>> ")
        os.write(near, b"\x04")
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(near)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _expect(terminal: int, text: str) -> None:
    seen, until = "", time.monotonic() + 30
    while text not in seen:
        assert time.monotonic() < until, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("localhost/", "http://localhost:8000"),
        ("LOCALHOST:9000", "http://LOCALHOST:9000"),
        (" box \n", "http://box:8000"),
        ('"box"', "http://box:8000"),
        ("box/serve/", "http://box:8000/serve"),
        (":9000", "http://127.0.0.1:9000"),
        ("10.0.0.5", "http://10.0.0.5:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("::1", "http://[::1]:8000"),
        ("[::1]", "http://[::1]:8000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("::", "http://[::1]:8000"),
        ("[::]:9000/", "http://[::1]:9000"),
        ("http://box", "http://box"),
        ("HTTP://box:9000/", "http://box:9000"),
        ("https://box.example/serve/", "https://box.example/serve"),
        ("http://[::1]:9000", "http://[::1]:9000"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert Server(address).url == url
    assert httpx.URL(url).host


@pytest.mark.parametrize(
    "address", ["ftp://box", "box:port", "box:", "box:0", "box:65536", "box:123456", "a b", "::1:9000:x", "[::1", "http://a:b:1"]
)
async def test_what_is_no_address_is_said_so(address: str) -> None:
    for words in (("list",), ("run", "phi4-mini", "hi")):
        code, _, fault = await _phi(address, *words, stdin="")
        assert (code, "is not an address; write host" in fault.replace("\n", " ")) == (1, True)


async def test_a_host_alone_means_the_applications_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with _listening(tmp_path) as (_, url):
        monkeypatch.setattr("serve_app.client.server._PORT", httpx.URL(url).port)
        for host in ("localhost", "127.0.0.1/", '"localhost"'):
            code, listed, _ = await _phi(host, "list")
            assert (code, "phi4-mini:latest" in listed) == (0, True)


def test_the_server_must_be_one() -> None:
    with pytest.raises(ClientError, match="nothing answers"):
        Server("ftp//nonsense").request("/api/tags")
    assert httpx.URL(Server("box:1").url).port == 1
