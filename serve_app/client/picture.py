"""Shows a start: a line per part, then a box with the addresses. On a terminal it moves, elsewhere each change is a plain line."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from serve_app.client.progress import FAILED, READY, Part, Progress
from serve_app.client.target import Target

_MOST_CHARS = 240
"""Of a reason; the log has the rest."""
_STYLES = {READY: "green", FAILED: "red"}


class Picture(Protocol):
    """Shows a start until it is left."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(self, *_: object) -> None:
        """Leave what is shown as it is."""
        ...

    def update(self) -> None:
        """Show what has changed."""
        ...


class Moving:
    """A line per part, drawn anew several times a second."""

    def __init__(self, console: Console, progress: Progress, clock: Callable[[], float]) -> None:
        """Show `progress`; `clock` gives the seconds since the command."""
        self._progress, self._clock = progress, clock
        self._spinner = Spinner("dots" if _has_signs(console) else "line")
        self._live = Live(self, console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.refresh()
        self._live.__exit__(None, None, None)

    def update(self) -> None:
        """Do nothing: it is drawn anew anyway."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(ratio=1, overflow="fold")
        now_s = self._clock()
        for part in self._progress.parts.values():
            mark: RenderableType = self._spinner.render(time.monotonic()) if is_under_way(part) else show_mark(part, console)
            phase = Text(part.phase or "waits", style=_STYLES.get(part.phase, ""))
            table.add_row(mark, part.name, phase, show_time(part, now_s), Text(show_note(part)))
        yield table


class Plain:
    """Prints one line per change, without control codes."""

    def __init__(self, console: Console, progress: Progress, clock: Callable[[], float]) -> None:
        """Print what changes in `progress`; `clock` gives the seconds since the command."""
        self._console, self._progress, self._clock = console, progress, clock
        self._shown: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Self:
        self.update()
        return self

    def __exit__(self, *_: object) -> None:
        self.update()

    def update(self) -> None:
        """Print the parts that changed. Percentages alone are no change."""
        for part in self._progress.parts.values():
            state = (part.phase, part.reason.partition(":")[0] if part.phase != FAILED else part.reason)
            if part.phase and self._shown.get(part.name) != state:
                self._shown[part.name] = state
                note = show_note(part)
                elapsed = f"{format_s(self._clock()):>8}"
                print_plain(self._console, f"{elapsed}  {part.name}: {part.phase}{f' ({note})' if note else ''}")


class Silent:
    """Shows nothing: the raw output is on the screen."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        """Show nothing."""


def is_under_way(part: Part) -> bool:
    """Return whether a part is known to start, and neither ready nor failed."""
    return bool(part.phase) and not part.is_settled


def show_mark(part: Part, console: Console) -> Text:
    """Return the sign of a part that does not move."""
    marks = {READY: "✓", FAILED: "✗"} if _has_signs(console) else {READY: "+", FAILED: "!"}
    return Text(marks.get(part.phase, "-"), style=_STYLES.get(part.phase, "dim"))


def show_time(part: Part, now_s: float) -> str:
    """Return the time that a part took, or takes, with what is expected where earlier starts are known."""
    if part.ready_s is not None:
        return format_s(part.ready_s)
    if part.phase == FAILED or not part.phase:
        return ""
    expected = f" of about {format_s(part.expected_s)}" if part.expected_s is not None else ""
    return f"{format_s(now_s)}{expected}"


def show_note(part: Part) -> str:
    """Return the reason of a phase and what to do about it, cut to a few lines."""
    words = part.reason if len(part.reason) <= _MOST_CHARS else f"{part.reason[:_MOST_CHARS]}..."
    if part.fix:
        words += f" -> {part.fix}"
    if part.phase == READY and part.replicas > 1:
        return f"{part.replicas} replicas"
    return words


def format_s(seconds: float) -> str:
    """Return a duration as people write it."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


def list_addresses(progress: Progress, target: Target, log: str) -> list[tuple[str, str]]:
    """Return the lines of the box: names and what they name."""
    url = target.public_url
    return [
        ("playground", f"{url}/ui"),
        ("operations", f"{url}/ops#ticket={progress.ticket}" if progress.ticket else f"{url}/ops"),
        ("OpenAI", f"{url}/v1"),
        ("Ollama", target.ollama_url),
        ("metrics", f"{url}/metrics"),
        ("log", log),
        ("try", target.example),
    ]


def print_box(console: Console, progress: Progress, target: Target, log: str) -> None:
    """Print where the application is, and which groups do not serve. A line that does not fit stands below, to be copied whole."""
    failed = [part.name for part in progress.groups if part.phase == FAILED]
    title = "phi-serve is ready" if not failed else f"phi-serve serves without {', '.join(failed)}"
    rows = list_addresses(progress, target, log)
    if not console.is_terminal:
        print_plain(console, title)
        for name, value in rows:
            print_plain(console, f"  {name:<11} {value}")
        return
    room = console.width - len("| operations   |")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    fitting = [row for row in rows if len(row[1]) <= room]
    for name, value in fitting:
        table.add_row(name, Text(value))
    console.print(Panel(table, title=title, border_style="yellow" if failed else "green", expand=False), soft_wrap=False)
    for name, value in rows:
        if (name, value) not in fitting:
            console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)


def print_causes(console: Console, progress: Progress) -> None:
    """Print why nothing can be served."""
    if progress.cause:
        print_plain(console, progress.cause, style="red")
    for part in progress.groups:
        if part.phase == FAILED and part.reason:
            print_plain(console, f"{part.name}: {part.reason}" + (f"\n  -> {part.fix}" if part.fix else ""))


def print_plain(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it is, unfolded."""
    with suppress(OSError):  # nobody reads any more
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def describe(progress: Progress) -> dict[str, object]:
    """Return a start as JSON."""
    return {
        "verdict": str(progress.verdict),
        "cause": progress.cause or None,
        "parts": {
            name: {"phase": part.phase, "reason": part.reason or None, "fix": part.fix or None, "ready_s": part.ready_s}
            for name, part in progress.parts.items()
        },
    }


def _has_signs(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")
