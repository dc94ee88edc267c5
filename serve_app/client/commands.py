"""The commands create, list, show, cp, rm, ps and run."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from serve_app.client.repl import Session, converse, stream_answer
from serve_app.client.server import DEFAULT_URL, ClientError, Server

_console = Console(stderr=True)
_FOREVER_DAYS = 20 * 365
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))

Url = Annotated[
    str, typer.Option("--url", envvar="PHI_SERVE_HOST", help="Where the application answers: host, host:port or a URL.")
]
Model = Annotated[str, typer.Argument(help="A model's name, as `phi-serve list` shows it.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for name, command in (("create", create), ("list", show_list), ("show", show), ("cp", copy), ("rm", remove), ("ps", ps)):
        app.command(name)(command)
    app.command("run")(run)


def create(
    name: Annotated[str, typer.Argument(help="The new model's name.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The Modelfile; - reads standard input.")] = Path("Modelfile"),
    url: Url = DEFAULT_URL,
) -> None:
    """Create a model from a Modelfile."""
    with report_errors():
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ClientError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from error
        for step in Server(url).stream("/api/create", {"model": name, "modelfile": text}):
            typer.echo(step.get("status", ""))


def show_list(url: Url = DEFAULT_URL) -> None:
    """List the models."""
    with report_errors():
        models = Server(url).request("/api/tags").get("models", [])
    rows = [
        (model["name"], model["digest"][:12], _format_size(model["size"]), _format_age(model["modified_at"])) for model in models
    ]
    print_table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def show(
    model: Model,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Only the Modelfile.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Only the parameters.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Only the system prompt.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Only the template.")] = False,
    license: Annotated[bool, typer.Option("--license", help="Only the licenses.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Show what a model is."""
    wanted = {"modelfile": modelfile, "parameters": parameters, "system": system, "template": template, "license": license}
    with report_errors():
        answer = Server(url).request("/api/show", {"model": model})
    chosen = [name for name, is_wanted in wanted.items() if is_wanted]
    if chosen:
        typer.echo("\n".join(str(answer.get(name, "")) for name in chosen))
        return
    details, info = answer.get("details", {}), answer.get("model_info", {})
    family = details.get("family", "")
    rows = [
        ("architecture", family),
        ("parameters", details.get("parameter_size", "")),
        ("precision", details.get("quantization_level", "")),
        ("context length", str(info.get(f"{family}.context_length", ""))),
        ("derived from", details.get("parent_model") or "-"),
        ("can", ", ".join(answer.get("capabilities", ()))),
    ]
    for name in ("parameters", "system", "license"):
        rows += [(name if at == 0 else "", line) for at, line in enumerate(str(answer.get(name, "")).splitlines())]
    print_table(("", ""), rows)


def copy(source: Model, destination: Annotated[str, typer.Argument(help="The new name.")], url: Url = DEFAULT_URL) -> None:
    """Copy a model to another name."""
    with report_errors():
        Server(url).request("/api/copy", {"source": source, "destination": destination})
    typer.echo(f"copied {source} to {destination}")


def remove(models: Annotated[list[str], typer.Argument(help="The models to delete.")], url: Url = DEFAULT_URL) -> None:
    """Delete models that were created."""
    with report_errors():
        for model in models:
            Server(url).request("/api/delete", {"model": model}, method="DELETE")
            typer.echo(f"deleted {model}")


def ps(url: Url = DEFAULT_URL) -> None:
    """Show which groups hold the model, what their processes take in memory, and how full their KV caches are."""
    with report_errors():
        models = Server(url).request("/api/ps").get("models", [])
    rows = []
    for entry in models:
        for group in entry.get("groups") or [{}]:
            where = (
                f"{group.get('name', '-')} ({group.get('engine', '-')} {group.get('precision', '')}) x {group.get('replicas', 1)}"
            )
            size = _format_size(group.get("size", entry["size"]))
            held = group.get("memory")
            memory = "-" if held is None else _format_size(held)
            tokens = group.get("kv_tokens")
            cache = "-" if tokens is None else f"{group.get('kv_used_tokens') or 0:,} / {tokens:,}"
            context = str(group.get("context_length", ""))
            rows.append((entry["name"], where, size, memory, cache, context, _format_expiry(entry["expires_at"])))
    print_table(("NAME", "GROUP", "WEIGHTS", "MEMORY", "KV TOKENS", "CONTEXT", "UNTIL"), rows)


def run(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Argument(help="What to ask; left out, a conversation begins.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show times and counts after each answer.")] = False,
    format: Annotated[str, typer.Option("--format", help="`json` keeps answers within JSON.")] = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Ask a model, or talk with it."""
    question = " ".join(prompt or ())
    with report_errors():
        session = Session(server=Server(url), model=model, format=format, verbose=verbose)
        if not sys.stdin.isatty():
            question = "\n\n".join(part for part in (question, sys.stdin.read().strip()) if part)
        if question:
            stream_answer(session, question, _write)
            return
        session.server.request("/api/generate", {"model": model})  # fails before the first question where the model is missing
        converse(session, _read, _write)


def _read(prompt: str) -> str:
    import readline  # noqa: F401  # its import gives input() a history and an editable line

    return input(prompt)


def _write(text: str) -> None:
    typer.echo(text, nl=False)
    sys.stdout.flush()


@contextmanager
def report_errors() -> Iterator[None]:
    """Print a `ClientError` and exit with status 1."""
    try:
        yield
    except ClientError as error:
        _console.print("error:", style="red", end=" ")
        _console.print(str(error), highlight=False, markup=False)
        raise typer.Exit(1) from error


def print_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of text under their titles."""
    table = Table(*titles, box=None, pad_edge=False, show_header=any(titles), header_style="bold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    Console(soft_wrap=True, width=max(Console().width, 160)).print(table)


def _format_size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _format_age(moment: str) -> str:
    return f"{_format_span((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())} ago"


def _format_expiry(moment: str) -> str:
    left_s = (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()
    return "forever" if left_s > _FOREVER_DAYS * 86400 else f"in {_format_span(left_s)}"


def _format_span(seconds: float) -> str:
    for unit, length in _UNITS:
        count = int(seconds // length)
        if count >= 1:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "a moment"
