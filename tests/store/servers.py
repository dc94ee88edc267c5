"""A Redis server of a test's own: on a unix socket in a temporary folder, without persistence, ended by its process."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.fetch_tools import redis_server

MISSING = "there is no redis-server: `make tools` fetches one"


class RedisServer:
    """Starts and ends one server; the socket stays the same."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket = folder / "redis.sock"
        self.options = options
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        found = redis_server()
        if found is None:
            pytest.skip(MISSING)
        program, libraries = found
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no", *self.options]
        self._process = subprocess.Popen(
            [program, *options], env=os.environ | libraries, cwd=self.socket.parent, stdout=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < give_up, "redis-server does not listen"
            time.sleep(0.01)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.socket))
            except OSError:
                return False
            connection.sendall(b"PING\r\n")
            return bool(connection.recv(16))

    def pause(self) -> None:
        """Let the server answer nothing, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server at once; no orderly shutdown."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None
            with contextlib.suppress(FileNotFoundError):
                self.socket.unlink()
