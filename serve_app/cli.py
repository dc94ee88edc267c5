"""`phi-serve`: the commands of an operator. Each is a thin shell around a function of the package."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from serve_app.client.verbs import add_verbs
from serve_app.config import ModelSettings
from serve_app.errors import ServeError
from serve_app.models.catalog import locate
from serve_app.models.export import write_form

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
export = typer.Typer(no_args_is_help=True, help="Derive another form of a model.")
app.add_typer(export, name="export")
add_verbs(app)
_console = Console(stderr=True)


@app.callback()
def _main() -> None:
    """Serve a small language model from several engines on Ray."""


class OnnxPrecision(StrEnum):
    """Weights of an exported graph."""

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"


class GgufType(StrEnum):
    """Weights of a GGUF file."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


_Model = Annotated[str, typer.Argument(help="`embedded`, a folder in Hugging Face layout, or a hub id.")]
_Out = Annotated[Path, typer.Option(help="The folder to write; must not exist.")]


@export.command("onnx")
def export_onnx(
    model: _Model, out: _Out, precision: Annotated[OnnxPrecision, typer.Option(help="Weights of the graph.")] = OnnxPrecision.INT4
) -> None:
    """Export a model for the ONNX group; point `engines.<name>.exported` at the folder."""
    _export(model, "onnx", precision, out)


@export.command("gguf")
def export_gguf(
    model: _Model, out: _Out, type: Annotated[GgufType, typer.Option(help="Weights of the file.")] = GgufType.Q8_0
) -> None:
    """Export a model for the llama.cpp group; point `engines.<name>.exported` at the folder."""
    _export(model, "gguf", type, out)


def _export(model: str, form: str, precision: str, out: Path) -> None:
    began = time.monotonic()
    try:
        with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=_console) as progress:
            step = progress.add_task(f"finding {model}")
            folder = locate(ModelSettings(path=model), weights=True)
            progress.update(step, description=f"exporting {model} to {form} {precision}")
            write_form(folder, form, precision, out)
    except ServeError as error:
        _console.print(f"[red]error:[/] {error.message}", highlight=False)
        raise typer.Exit(1) from error
    size = sum(file.stat().st_size for file in out.iterdir())
    typer.echo(f"{out}: {size / 2**20:,.1f} MiB in {time.monotonic() - began:.0f} s")
