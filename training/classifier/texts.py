"""Reads the classifier's text files: `[heading]` lines, and below each its lines."""

import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
_HEADING = re.compile(r"\[([a-z ]+)\]")


def sections(name: str) -> Iterator[tuple[str, str]]:
    r"""Yield every line of `name` with its heading, "" above the first; `# ` begins a comment, `\n` is a line break.

    Raises `OSError` when there is no such file.
    """
    heading = ""
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if found := _HEADING.fullmatch(line):
            heading = found[1]
        elif line and not line.startswith("# "):
            yield heading, line.replace("\\n", "\n")
