"""The commands ``towpath new service`` and ``towpath delete service``; each loads what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

_HELP = {"help_option_names": ["-h", "--help"]}

new = typer.Typer(no_args_is_help=True, context_settings=_HELP, help="Make a new service.")
delete = typer.Typer(
    no_args_is_help=True, context_settings=_HELP, help="Delete a service that was made here."
)

Name = Annotated[str, typer.Argument(help="One word of small letters and digits.", show_default=False)]


@new.callback()
def _new() -> None:
    """Make a new service."""


@delete.callback()
def _delete() -> None:
    """Delete a service that was made here."""


@new.command("service")
def new_service(
    name: Name,
    storage: Annotated[
        bool, typer.Option("--storage", help="With a table of its own, and its migration.")
    ] = False,
    into: Annotated[
        Path, typer.Option(help="The repository, or the folder for a project of its own.", show_default=False)
    ] = Path(),
) -> None:
    """Make a service that works, with a test.

    In this repository it is services/NAME, with its container and its layer; elsewhere a project of its own.
    """
    from towpath.tools.new_service import new

    typer.echo(new(name, with_storage=storage, into=into))


@delete.command("service")
def delete_service(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: its folder is deleted for good.")] = False,
) -> None:
    """Delete a service of this repository that is not committed, without a trace."""
    from towpath.tools.new_service import delete

    typer.echo(delete(name, yes=yes, into=Path()))
