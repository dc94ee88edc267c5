"""`phi-serve`: the operator's commands. Each calls a function of the package."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from serve_app.client.bench import bench
from serve_app.client.commands import add_commands
from serve_app.client.deploy import deploy, show_revisions
from serve_app.client.doctor import examine
from serve_app.client.keys import keys
from serve_app.client.ops import print_link
from serve_app.client.plan import plan_file
from serve_app.client.running import down, show_logs
from serve_app.client.select import select_engines
from serve_app.client.state import state
from serve_app.client.status import show_status
from serve_app.client.steering import add_steering
from serve_app.client.up import up
from serve_app.client.usage import show_usage
from serve_app.client.validate import validate_file
from serve_app.config import ModelSettings
from serve_app.conversation import RawText
from serve_app.errors import ServeError
from serve_app.manifests.files import render_compose, render_kuberay
from serve_app.manifests.kuberay import ClusterOptions, Upgrade
from serve_app.manifests.plan import Config, Hardware
from serve_app.models.export import DEFAULT_BLOCK_SIZE, ENCODER_FORM, export_to_folder
from serve_app.models.locate import locate
from serve_app.routing.tasks import DEFAULT_THRESHOLD, classify

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
export = typer.Typer(no_args_is_help=True, help="Another form of a model, or of the configuration.")
app.add_typer(export, name="export")
app.add_typer(state, name="state")
app.add_typer(keys, name="keys")
app.add_typer(bench, name="bench")
app.command("usage")(show_usage)
app.command("validate")(validate_file)
app.command("ops")(print_link)
app.command("select")(select_engines)
app.command("up")(up)
app.command("down")(down)
app.command("logs")(show_logs)
app.command("status")(show_status)
app.command("plan")(plan_file)
app.command("doctor")(examine)
app.command("deploy")(deploy)
app.command("revisions")(show_revisions)
add_commands(app)
add_steering(app)
_console = Console(stderr=True)


@app.callback()
def _main() -> None:
    """Serve a small language model from several engines on Ray."""


class OnnxPrecision(StrEnum):
    """Weights of an exported graph."""

    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"
    INT4_MIXED = "int4_mixed"


class GgufType(StrEnum):
    """Weights of a GGUF file."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


_Model = Annotated[str, typer.Argument(help="`embedded`, a folder in Hugging Face layout, or a hub id.")]
_Out = Annotated[Path, typer.Option(help="The folder to write; must not exist.")]


@app.command()
def route(
    text: Annotated[str, typer.Argument(help="A prompt, as a user would write it.")],
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability of a task; below it: general.")
    ] = DEFAULT_THRESHOLD,
) -> None:
    """Print the task of a prompt, with each task's probability. Needs no server."""
    decision = classify(RawText(text=text), threshold)
    typer.echo(f"{decision.task} ({decision.reason})")
    for task, chance in sorted(decision.probabilities.items(), key=lambda entry: -entry[1]):
        typer.echo(f"  {task:<10} {chance:6.1%}")


@export.command("onnx")
def export_onnx(
    model: _Model,
    out: _Out,
    precision: Annotated[OnnxPrecision, typer.Option(help="Weights of the graph.")] = OnnxPrecision.INT4,
    block_size: Annotated[
        int, typer.Option(min=DEFAULT_BLOCK_SIZE, max=256, help="Quantized weights that share a scale: 32, 64, 128 or 256.")
    ] = DEFAULT_BLOCK_SIZE,
) -> None:
    """Export a model for the ONNX group; point `engines.<name>.exported` at the folder."""
    if block_size & (block_size - 1):
        raise typer.BadParameter("must be a power of two", param_hint="--block-size")
    _export(model, "onnx", precision, out, block_size)


@export.command("gguf")
def export_gguf(
    model: _Model, out: _Out, type: Annotated[GgufType, typer.Option(help="Weights of the file.")] = GgufType.Q8_0
) -> None:
    """Export a model for the llama.cpp group; point `engines.<name>.exported` at the folder."""
    _export(model, "gguf", type, out)


@export.command("encoder")
def export_encoder(model: _Model, out: _Out) -> None:
    """Export an embedding model for the onnx_encoder group; point `engines.<name>.exported` at the folder."""
    _export(model, ENCODER_FORM, "fp32", out)


def _export(model: str, form: str, precision: str, out: Path, block: int = DEFAULT_BLOCK_SIZE) -> None:
    started_s = time.monotonic()
    try:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=_console) as progress, _exit_on_sigterm():
            step = progress.add_task(f"finding {model}", total=None)
            folder = locate(ModelSettings(path=model), weights=True)

            def report(what: str, fraction: float) -> None:
                progress.update(step, description=what, completed=fraction, total=1.0 if fraction else None)

            export_to_folder(folder, form, precision, out, block, progress=report)
    except ServeError as error:
        _console.print(f"[red]error:[/] {error.message}", highlight=False)
        raise typer.Exit(1) from error
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    typer.echo(f"{out}: {size / 2**20:,.1f} MiB in {time.monotonic() - started_s:.0f} s")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that nothing half-written remains."""

    def leave(number: int, frame: object) -> None:
        raise typer.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration to export.")]


@export.command("compose")
def export_compose(config: _ConfigFile = Path("serve_config.yaml")) -> None:
    """Print docker/compose.yaml for a configuration."""
    typer.echo(_render(config, render_compose), nl=False)


@export.command("kuberay")
def export_kuberay(
    config: _ConfigFile = Path("serve_config.yaml"),
    variant: Annotated[Hardware, typer.Option(help="Processors of the engines that can use either.")] = Hardware.CPU,
    upgrade: Annotated[Upgrade, typer.Option(help="How a change replaces the running cluster.")] = Upgrade.NEW_CLUSTER,
    registry: Annotated[str, typer.Option(help="Prefix of the images, with a slash at its end.")] = "",
) -> None:
    """Print the objects of a cluster on Kubernetes: a RayService and what stands beside it."""
    choices = ClusterOptions(upgrade=upgrade, registry=registry)
    typer.echo(_render(config, lambda content: render_kuberay(content, variant, choices)), nl=False)


def _render(config: Path, render: Callable[[Config], str]) -> str:
    """Return `render`'s text for a configuration; exits with one sentence where the file cannot be used."""
    try:
        return render(yaml.safe_load(config.read_text()))
    except OSError as error:
        problem = f"cannot read {config}: {error.strerror}"
    except yaml.YAMLError as error:
        problem = f"{config} is not YAML: {str(error).splitlines()[0]}"
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{config}: args.{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (KeyError, IndexError, TypeError):
        problem = f"{config} does not have the structure of serve_config.yaml: applications, each with args and deployments"
    _console.print(f"[red]error:[/] {problem}", highlight=False)
    raise typer.Exit(1)
