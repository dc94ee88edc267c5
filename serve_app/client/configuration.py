"""Reads a part of serve_config.yaml for commands that need no server, and prints their mistakes."""

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

_console = Console(stderr=True)


class Mistake(Exception):
    """What the operator can correct, in a sentence."""


def read_args(config: Path) -> dict[str, Any]:
    """Return `args` of the file's application; raises `Mistake`, and `OSError` where the file cannot be read."""
    try:
        args = yaml.safe_load(config.read_text(encoding="utf-8"))["applications"][0]["args"]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Mistake(f"{config} is not YAML: {str(error).splitlines()[0]}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise Mistake(f"{config} does not have the structure of serve_config.yaml: applications, each with args") from error
    if not isinstance(args, dict):
        raise Mistake(f"{config} does not have the structure of serve_config.yaml: applications, each with args")
    return args


def read_text(config: Path) -> str:
    """Return a file's text; raises `Mistake` with the reason where it cannot be read."""
    try:
        return config.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Mistake(f"cannot read {config}: it is no text in UTF-8") from error
    except OSError as error:
        raise Mistake(f"cannot read {config}: {error.strerror}") from error


def print_error(problem: str) -> None:
    """Print a problem after the word `error:`, in red."""
    _console.print("error:", style="red", end=" ")
    _console.print(problem, highlight=False, markup=False, soft_wrap=True)
