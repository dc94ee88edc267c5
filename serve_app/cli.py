"""`phi-serve`: the commands of an operator. Each is a thin shell around a function of the package."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from serve_app.config import ModelSettings
from serve_app.conversation import RawText
from serve_app.errors import ServeError
from serve_app.models.catalog import locate
from serve_app.models.export import write_onnx
from serve_app.routing.tasks import DEFAULT_THRESHOLD, classify

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
export = typer.Typer(no_args_is_help=True, help="Derive another form of a model.")
app.add_typer(export, name="export")
_console = Console(stderr=True)


@app.callback()
def _main() -> None:
    """Serve a small language model from several engines on Ray."""


class Precision(StrEnum):
    """Weights of an exported graph."""

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"


@app.command()
def route(
    text: Annotated[str, typer.Argument(help="A prompt, as a user would write it.")],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least probability of a task; below it: general.")] = DEFAULT_THRESHOLD,
) -> None:
    """Print which task a prompt is taken for, with each task's probability. Needs no server."""
    decision = classify(RawText(text=text), threshold)
    typer.echo(f"{decision.task} ({decision.reason})")
    for task, chance in sorted(decision.probabilities.items(), key=lambda entry: -entry[1]):
        typer.echo(f"  {task:<10} {chance:6.1%}")


@export.command("onnx")
def export_onnx(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder in Hugging Face layout, or a hub id.")],
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist.")],
    precision: Annotated[Precision, typer.Option(help="Weights of the graph.")] = Precision.INT4,
) -> None:
    """Export a model for the ONNX group; point `engines.<name>.exported` at the folder."""
    began = time.monotonic()
    try:
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=_console) as progress:
            step = progress.add_task(f"finding {model}")
            folder = locate(ModelSettings(path=model), weights=True)
            progress.update(step, description=f"exporting {model} to {precision}")
            write_onnx(folder, precision, out)
    except ServeError as error:
        _console.print(f"[red]error:[/] {error.message}", highlight=False)
        raise typer.Exit(1) from error
    size = sum(file.stat().st_size for file in out.iterdir())
    typer.echo(f"{out}: {size / 2**20:,.1f} MiB in {time.monotonic() - began:.0f} s")
