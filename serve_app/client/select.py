"""`phi-serve select`: a configuration without the groups of some engines, for machines that have not all of them installed."""

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from serve_app.client.configuration import Mistake, print_error, read_args
from serve_app.types import EngineKind

Config = dict[str, Any]
_KINDS = (EngineKind.VLLM, EngineKind.ONNX, EngineKind.LLAMA_CPP)
"""What can be named."""
_console = Console(stderr=True, highlight=False, soft_wrap=True)


def select_engines(
    engines: Annotated[str, typer.Option(help=f"The engines to keep, with commas or blanks: {', '.join(_KINDS)}.")],
    config: Annotated[Path, typer.Argument(help="The configuration.")] = Path("serve_config.yaml"),
) -> None:
    """Print a configuration with the groups of these engines only; says on standard error what it leaves out."""
    try:
        read_args(config)  # describes a file that is no configuration
        given = yaml.safe_load(config.read_text(encoding="utf-8"))
        kept, left_out = keep_engines(given, engines.replace(",", " ").split())
    except OSError as error:
        print_error(f"cannot read {config}: {error.strerror}")
        raise typer.Exit(1) from error
    except Mistake as error:
        print_error(str(error))
        raise typer.Exit(1) from error
    for line in left_out:
        _console.print(line, markup=False)
    typer.echo(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), nl=False)


def keep_engines(config: Config, engines: Collection[str]) -> tuple[Config, list[str]]:
    """Return a configuration with only the groups of these engines, and a line for each group and model that it lacks.

    Their names leave `args.routing`, `args.models` and `deployments` too. What else names a model that is gone stays, and
    `phi-serve validate` shows it. Raises `Mistake` for unknown engines, and where no group is left.
    """
    if unknown := [name for name in engines if name not in _KINDS]:
        raise Mistake(f"no engine '{unknown[0]}'; engines are: {', '.join(_KINDS)}")
    config = copy.deepcopy(config)
    application = config["applications"][0]
    args = application["args"]
    groups = args.get("engines") or {}
    gone = {name: str(group.get("kind")) for name, group in groups.items() if not _is_kept(group, engines)}
    if len(gone) == len(groups):
        raise Mistake(f"no group is of an engine that was named; the groups are: {_list_kinds(gone) or 'none'}")
    models = list(args.get("models") or {})

    def serve(names: Collection[str]) -> set[str]:
        return {groups[name].get("model") or next(iter(models), "") for name in names}

    kept = [name for name in groups if name not in gone]
    orphans = [name for name in models if name in serve(groups) and name not in serve(kept)]
    args["engines"] = {name: groups[name] for name in kept}
    if models:
        args["models"] = {name: settings for name, settings in args["models"].items() if name not in orphans}
    _drop_from_routing(args.get("routing") or {}, gone)
    application["deployments"] = [each for each in application.get("deployments") or () if each.get("name") not in gone]
    lines = [f"left out: the group {name} (kind {kind})" for name, kind in gone.items()]
    return config, lines + [f"left out: the model {name}, which no other group serves" for name in orphans]


def _is_kept(group: Config, engines: Collection[str]) -> bool:
    """Return whether a group is of these engines; embeddings need the packages of `onnx`, and scripted groups none."""
    kind = group.get("kind")
    return kind in engines or kind == EngineKind.FAKE or (kind == EngineKind.ONNX_ENCODER and EngineKind.ONNX in engines)


def _list_kinds(groups: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in groups.items())


def _drop_from_routing(routing: Config, gone: Collection[str]) -> None:
    """Remove the groups from every list of groups; a list that would be empty goes as a whole."""
    for field in ("prefer", "models"):
        for name, listed in list((routing.get(field) or {}).items()):
            if left := [group for group in listed if group not in gone]:
                routing[field][name] = left
            else:
                del routing[field][name]
    if "sleeping" in routing:
        routing["sleeping"] = [group for group in routing["sleeping"] or () if group not in gone]
