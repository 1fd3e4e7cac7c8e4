"""The commands of operators: ``status``, ``doctor``, ``who``, ``connections``, ``tap``, ``drain``, ``rolling``,
``topology …``.

Each loads what it needs when it runs. Exit status: 0 if all is as it should be, 1 if something was found, 2 for an
option that cannot be used or a broker that cannot be reached.
"""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Data = Annotated[Path, typer.Option(help="Folder of a `towpath dev`, used if TOWPATH_AMQP_URL is not set.")]
Services = Annotated[
    list[str] | None,
    typer.Option(
        "--service",
        help="A service that must run, also if it has never run on this broker; once for each.",
        show_default=False,
    ),
]
Admin = Annotated[
    list[str] | None,
    typer.Option(
        help="Address of a program's admin pages, to look at as well: [dim]http://gateway-1:9090[/]; once for each.",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Services; all installed ones if not given.", metavar="[SERVICE]...", show_default=False
    ),
]

topology = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The exchanges and queues of installed services, compared with those of the broker.",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (status, doctor, who, connections, tap, drain, rolling):
        app.command()(command)
    app.add_typer(topology, name="topology")


def status(
    service: Services = None,
    admin: Admin = None,
    watch: Annotated[bool, typer.Option("--watch", help="Draw it again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option(help="Seconds between two pictures of --watch.", min=0.5, max=3600)
    ] = 2.0,
    seconds: Annotated[
        float | None, typer.Option(help="End --watch after so long.", min=1, show_default=False)
    ] = None,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Show gateways and services, who holds which partition, what waits, and what is parked.

    It asks gateways, listens to announcements and looks at queues; no plug-in is needed, and nothing is changed.
    """
    from towpath.tools.ops.status import Wanted
    from towpath.tools.ops.status import status as show

    wanted = Wanted(service or (), admin or (), every if watch else None, seconds)
    _end(show(wanted, as_json=as_json, data=data))


def doctor(
    service: Services = None,
    admin: Admin = None,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Say what is wrong and how to mend it, the most important first: settings, broker, account, programs, clocks.

    Run it with the environment of the programs: it reads their settings as well. Exit status 1 if something is wrong.
    """
    from towpath.tools.ops.doctor import doctor as examine

    _end(examine(service or (), admin or (), as_json=as_json, data=data))


def who(
    user: Annotated[str, typer.Option(help="The user.", show_default=False)],
    group: Annotated[
        str, typer.Option(help="A push to this group, instead of one to the user.", show_default=False)
    ] = "",
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Say on which gateways a push to a user would be heard now, by which connections, and why not.

    Exit status 1 if no connection would hear it.
    """
    from towpath.tools.ops.who import who as ask

    _end(ask(user, group, as_json=as_json, data=data))


def connections(
    slow: Annotated[
        int, typer.Option(help="Slow connections of each gateway to list at most.", min=0, max=200)
    ] = 10,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Show the connections of each gateway: open ones, users, groups, and those whose clients read too slowly."""
    from towpath.tools.ops.connections import connections as show

    _end(show(slow=slow, as_json=as_json, data=data))


def tap(
    target: Annotated[
        str, typer.Argument(help="user:ana, group:chat:harbour or domain:order.", show_default=False)
    ],
    show_data: Annotated[
        bool, typer.Option("--show-data", help="Show texts and other values, and not only their kinds.")
    ] = False,
    rate: Annotated[
        float,
        typer.Option(help="Envelopes a second to print at most; more are counted.", min=0.1, max=10_000),
    ] = 50.0,
    seconds: Annotated[
        float | None, typer.Option(help="End after so long.", min=0.1, show_default=False)
    ] = None,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Print envelopes as they pass: pushes to a user or a group, commands and events of a domain.

    Values are left out: of the data only names of fields and kinds of values are shown.
    """
    from towpath.tools.ops.tap import tap as listen

    listen(target, show_data=show_data, rate=rate, seconds=seconds, as_lines=as_json, data=data)


def drain(
    gateway: Annotated[str, typer.Option(help="The gateway's id, see `towpath status`.", show_default=False)],
    seconds: Annotated[
        float, typer.Option(help="Wait so long until it has ended; 0 to return at once.", min=0, max=86_400)
    ] = 60.0,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Stop a gateway as SIGTERM does: it closes its connections in steps, with the advice to reconnect, and ends.

    If something starts it again, it is a restart. Services stop by SIGTERM.
    """
    from towpath.tools.ops.drain import drain as stop

    stop(gateway, seconds=seconds, as_json=as_json, data=data)


def rolling(
    part: Annotated[str, typer.Argument(help="gateway, or a service such as orders.", show_default=False)],
    each: Annotated[
        list[str] | None,
        typer.Option(
            help="Command that restarts one replica, such as 'docker restart towpath-orders-1'; once for each. "
            "Without it gateways are drained, and started again by what supervises them.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(help="Time limit for each replica, from its command until all work.", min=1, max=86_400),
    ] = 120.0,
    pause: Annotated[
        float,
        typer.Option(
            help="Seconds between two replicas, in which proxies find the one that started.", min=0, max=3600
        ),
    ] = 5.0,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Restart the replicas of a part one after the other; the next only when all work again.

    Each gateway must be ready and each partition of a service held, as `towpath status` shows it. It stops at the
    first replica that does not return. Exit status 1 if not all were restarted.
    """
    from towpath.tools.ops.rolling import Wanted
    from towpath.tools.ops.rolling import rolling as restart

    _end(restart(Wanted(part, each or (), seconds, pause), as_json=as_json, data=data))


@topology.command("check")
def topology_check(services: Names = None, as_json: Json = False, data: Data = Path(".towpath")) -> None:
    """Name the exchanges and queues that are missing; exit status 1 if one is. Any account may do it."""
    from towpath.tools.ops import topology as compared

    _end(compared.check(services or (), as_json=as_json, data=data))


@topology.command("diff")
def topology_diff(services: Names = None, as_json: Json = False, data: Data = Path(".towpath")) -> None:
    """Name also those with other arguments than this version needs.

    To compare them, the account must be allowed to declare them, as that of the service is. Nothing is changed.
    """
    from towpath.tools.ops import topology as compared

    _end(compared.diff(services or (), as_json=as_json, data=data))


@topology.command("apply")
def topology_apply(services: Names = None, as_json: Json = False, data: Data = Path(".towpath")) -> None:
    """Make what is missing, with all bindings, before a service starts. The account must be allowed to.

    A queue with other arguments is named, and not changed.
    """
    from towpath.tools.ops import topology as compared

    compared.apply(services or (), as_json=as_json, data=data)


def _end(is_fine: bool) -> None:
    if not is_fine:
        raise typer.Exit(1)
