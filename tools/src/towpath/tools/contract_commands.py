"""The commands ``towpath contract …``; each loads what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The contract of the installed services: AsyncAPI document, JSON Schemas, page.",
)

Services = Annotated[
    list[str] | None,
    typer.Option("--service", help="A service; once for each. All that are installed if none is named."),
]
Version = Annotated[str, typer.Option(help="The version of your software.")]


@app.callback()
def _contract() -> None:
    """The contract of the installed services: AsyncAPI document, JSON Schemas, page."""


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(help="Where to write.", show_default=False)],
    service: Services = None,
    version: Version = "0.1.0",
) -> None:
    """Write asyncapi.json, actions.md and schemas/ from the code of the services."""
    from towpath.tools.contract import files

    written = files.render(files.chosen(service or ()), version)
    files.write(written, folder)
    typer.echo(f"{len(written)} files in {folder}")


@app.command()
def check(
    released: Annotated[
        Path | None, typer.Option(help="The asyncapi.json of the last release.", show_default=False)
    ] = None,
    breaks: Annotated[
        Path | None, typer.Option(help="A TOML file of intended breaks.", show_default=False)
    ] = None,
    service: Services = None,
    version: Version = "0.1.0",
) -> None:
    """Name what the services publish without declaring it, and each change that breaks the last release.

    Status 1 if there is any.
    """
    from towpath.tools.contract import files

    chosen = files.chosen(service or ())
    found = files.not_declared(chosen)
    if released is not None:
        found += files.incompatible(chosen, version, released, breaks)
    for line in found:
        typer.echo(line)
    if found:
        raise files.Findings(
            f"{len(found)} findings: declare what is missing; keep, or list, what breaks a release"
        )
