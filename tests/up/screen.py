"""A terminal for tests: what a person would see of a command, as tmux draws it."""

import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

ROWS, COLUMNS = 25, 100


class Screen:
    """A terminal of 25 rows with a shell in it."""

    def __init__(self, socket: Path, environment: Mapping[str, str]) -> None:
        self._tmux = ("tmux", "-S", str(socket))
        settings = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        size = ("-x", str(COLUMNS), "-y", str(ROWS))
        self._run(
            "-f", "/dev/null", "new-session", "-d", *size, *settings, "-e", "PS1=$ ", "-e", "HISTFILE=", "bash --norc --noprofile"
        )

    def type(self, text: str) -> None:
        """Type a line and Enter."""
        self._run("send-keys", "-l", text)
        self._run("send-keys", "Enter")

    def press(self, key: str) -> None:
        """Press a key, such as C-c."""
        self._run("send-keys", key)

    def rows(self) -> list[str]:
        """Return what is on the screen, and what has left it at the top, without empty rows at the end."""
        return self._run("capture-pane", "-p", "-S", "-").rstrip().split("\n")

    def wait(self, text: str, limit_s: float) -> list[str]:
        """Return the rows once they contain a text; raises `TimeoutError`."""
        deadline = time.monotonic() + limit_s
        rows = self.rows()
        while not any(text in row for row in rows):
            if time.monotonic() > deadline:
                raise TimeoutError(f"'{text}' did not appear:\n" + "\n".join(rows))
            time.sleep(0.2)  # a screen says nothing when it changes
            rows = self.rows()
        return rows

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def screen(folder: Path, environment: Mapping[str, str]) -> Iterator[Screen]:
    """Yield a terminal; it ends with the block."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux draws the screen that this test looks at, and it is not installed")  # nothing else draws one
    socket = folder / "tmux"
    try:
        yield Screen(socket, environment)
    finally:
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], check=False, capture_output=True)
