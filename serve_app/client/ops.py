"""`phi-serve ops`: a link to the operations page of a server that asks for no API keys."""

from pathlib import Path
from typing import Annotated

import typer

from serve_app.access.operator import DEFAULT_FOLDER, Operators
from serve_app.client.commands import Url, report_errors
from serve_app.client.configuration import print_error
from serve_app.client.server import DEFAULT_URL, Server


def print_link(
    url: Url = DEFAULT_URL,
    folder: Annotated[
        Path,
        typer.Option("--folder", help="The folder `operator` beside the server's file of keys, where that is not the default."),
    ] = Path(DEFAULT_FOLDER),
) -> None:
    """Print a link to the operations page, which signs a browser in once."""
    with report_errors():
        server = Server(url)
        needs = server.request("/v1/operations/session").get("needs")
    if needs == "key":
        typer.echo(f"{server.url}/ops")
        typer.echo("This server asks for API keys: sign in there with a key that has the scope operate.", err=True)
        return
    try:
        ticket = Operators(folder.expanduser()).issue_ticket()
    except OSError as error:
        print_error(f"cannot write to {folder}: {error.strerror}")
        raise typer.Exit(1) from error
    typer.echo(f"{server.url}/ops#ticket={ticket}")
