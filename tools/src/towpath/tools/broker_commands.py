"""The commands ``towpath broker …``; each loads what it needs when it runs."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="RabbitMQ's accounts and permissions for Towpath.",
)


@app.callback()
def _broker() -> None:
    """RabbitMQ's accounts and permissions for Towpath."""


@app.command()
def setup(
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Another backend, and the domains of its events: [dim]shop:order[/]; once for each.",
            show_default=False,
        ),
    ] = None,
    service: Annotated[
        list[str] | None,
        typer.Option(
            help="A service that is not installed here: [dim]name:domain:event,event[/], and "
            "[dim]:event,event[/] of other domains that it publishes; once for each.",
            show_default=False,
        ),
    ] = None,
    kick: Annotated[
        list[str] | None,
        typer.Option(help="A backend that may end the connections of users.", show_default=False),
    ] = None,
    revoke: Annotated[
        list[str] | None, typer.Option(help="A backend that may revoke tokens.", show_default=False)
    ] = None,
    queue_max_bytes: Annotated[
        int | None,
        typer.Option(
            min=4_194_304,
            help="Bytes that each queue of a service may hold (256 MiB, if not given); past them its clients get "
            "[dim]busy[/], and the disk stays free for others. With --check as well.",
            show_default=False,
        ),
    ] = None,
    secrets: Annotated[
        Path | None,
        typer.Option(help="File of the passwords; new ones are added to it.", show_default=False),
    ] = None,
    vhost: Annotated[str, typer.Option(help="The virtual host.")] = "/",
    output: Annotated[
        Path | None,
        typer.Option(help="Write the definitions to this file, and change nothing.", show_default=False),
    ] = None,
    ctl: Annotated[
        str,
        typer.Option(
            help="The command that reaches RabbitMQ from here; elsewhere take --output, and import the file there."
        ),
    ] = "rabbitmqctl",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Name the differences, and change nothing; status 1 if something of ours is missing or differs.",
        ),
    ] = False,
) -> None:
    """Give gateways, services, backends and operators an account each, with the least permissions.

    Passwords come from TOWPATH_BROKER_PASSWORD_<ACCOUNT> or from --secrets. Repeat it whenever a service is added.
    """
    from towpath.tools import broker_setup

    wanted = broker_setup.Wanted(service or (), backend or (), kick or (), revoke or ())
    if queue_max_bytes is not None:
        wanted = dataclasses.replace(wanted, queue_max_bytes=queue_max_bytes)
    if check:
        found = broker_setup.check(wanted, vhost, shlex.split(ctl))
        for line in found:
            typer.echo(line)
        broker_setup.must_be_set_up(found)
        return
    text = broker_setup.document(wanted, secrets, vhost)
    if output is not None:
        broker_setup.write(text, output)
    else:
        broker_setup.import_by_ctl(text, shlex.split(ctl))
        broker_setup.until_set_up(wanted, vhost, shlex.split(ctl))
    typer.echo(f"{len(wanted.accounts())} accounts: {', '.join(one.name for one in wanted.accounts())}")
