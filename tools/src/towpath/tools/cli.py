"""The ``towpath`` command. Each command loads what it needs when it runs, so that help comes at once.

Guarantee: whatever goes wrong is one line on standard error that says what, with which value, and what to do; the
exit status is 2 for a setting or option that cannot be used or a broker that cannot be reached, and 1 for the rest.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from towpath.tools import ops_commands, service_commands
from towpath.tools.broker_commands import app as broker_commands
from towpath.tools.contract_commands import app as contract_commands
from towpath.tools.effect_commands import app as effect_commands
from towpath.tools.options import Choice, Options
from towpath.tools.trouble import Trouble
from towpath.tools.user_commands import listen, request

if TYPE_CHECKING:
    from towpath.tools.parked import Wanted

_HELP: Final = {"help_option_names": ["-h", "--help"]}


class _TroubleInOneLine(TyperGroup):
    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **{**options, "standalone_mode": False})
        except Exception as error:
            status, line = _error_text(error)
            print(f"towpath: {line}", file=sys.stderr)  # noqa: T201  # a command speaks to a person
            sys.exit(status)


app = typer.Typer(
    cls=_TroubleInOneLine,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_HELP,
    help="Towpath, for those who develop on it and operate it.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Data = Annotated[Path, typer.Option(help="Folder for databases, logs, secret and the broker's data.")]


@app.callback(invoke_without_command=True)
def _towpath(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"towpath {version_of('towpath-tools')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def dev(
    broker: Annotated[
        Choice,
        typer.Option(
            help="Where the broker comes from. [bold]auto[/]: TOWPATH_AMQP_URL, an installed RabbitMQ, Docker, "
            "else memory. [bold]rabbitmq[/]: the same without memory; installs Debian's package if it must."
        ),
    ] = Choice.AUTO,
    port: Annotated[
        int, typer.Option(help="Port of the gateway.", envvar="TOWPATH_PORT", min=1, max=65535)
    ] = 8080,
    web_port: Annotated[
        int, typer.Option(help="Port of the page.", envvar="TOWPATH_WEB_PORT", min=1, max=65535)
    ] = 8000,
    ingress_port: Annotated[
        int,
        typer.Option(
            help="Port of the ingress, for other backends by HTTP; the next free one if it is taken.",
            envvar="TOWPATH_INGRESS_PORT",
            min=1,
            max=65535,
        ),
    ] = 8090,
    own: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="A service of your own, started again when its files change: mill.app, mill.app:MILL or "
            "path/to/mill.py; once for each. It needs a broker other than memory.",
            show_default=False,
        ),
    ] = None,
    data: Data = Path(".towpath"),
) -> None:
    """Run all of Towpath here: gateway, services, ingress, a broker, and a page that shows it.

    Ctrl-C stops all of it. Settings in the environment (TOWPATH_…) hold for every part.
    """
    from towpath.tools.dev import run

    run(Options(broker, port, web_port, ingress_port, data, own or ()))


@app.command()
def web(
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="TOWPATH_WEB_HOST")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on.", envvar="TOWPATH_WEB_PORT", min=1, max=65535)
    ] = 8000,
    gateway: Annotated[
        list[str] | None,
        typer.Option(
            help="Address of a gateway as browsers reach it; once for each. [dim]ws://127.0.0.1:8080/ws[/]",
            envvar="TOWPATH_WEB_GATEWAYS",
            show_default=False,
        ),
    ] = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Let people sign in by name alone, and publish order events. Never where strangers can reach it.",
            envvar="TOWPATH_DEMO",
        ),
    ] = False,
    demo_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which browsers may reach the demo; once for each, or separated by commas. Those of this "
            "machine and the address itself are known.",
            envvar="TOWPATH_DEMO_HOSTS",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve the page, and nothing else.

    With --demo it needs TOWPATH_AUTH_SECRET (to sign tokens) and TOWPATH_AMQP_URL (to publish events).
    """
    from towpath.tools.page import run

    run(host, port, gateway or ["ws://127.0.0.1:8080/ws"], demo=demo, demo_host=demo_host or [])


@app.command()
def token(
    user: Annotated[str, typer.Option(help="The user of the token.", show_default=False)],
    expires_in: Annotated[int, typer.Option(help="Seconds until it expires.", min=1, max=10**9)] = 3600,
    scope: Annotated[
        str | None,
        typer.Option(help='Domains the user may address, for example "chat order". All if not given.'),
    ] = None,
    data: Data = Path(".towpath"),
) -> None:
    """Print a token (JWT, HS256) that a gateway here takes.

    It is signed with TOWPATH_AUTH_SECRET, or with the secret that `towpath dev` keeps in its folder.
    """
    from towpath.tools.data_folder import DataFolder
    from towpath.tools.token import secret_of, sign

    typer.echo(sign(user, secret_of(DataFolder(data)), expires_in=expires_in, scope=scope))


@app.command()
def publish(
    event: Annotated[str, typer.Argument(help="For example order.paid.", show_default=False)],
    order: Annotated[str, typer.Option(help="The order's id.", show_default=False)],
    user: Annotated[str, typer.Option(help="Whose order it is.", show_default=False)],
    amount: Annotated[
        str | None,
        typer.Option(help="The price, for example 9.90; of order.refunded: the amount paid back."),
    ] = None,
    currency: Annotated[str | None, typer.Option(help="Of the amount, for example EUR.")] = None,
    revision: Annotated[
        int | None, typer.Option(help="The sender's own count of changes; older ones move nothing.")
    ] = None,
    detail: Annotated[str | None, typer.Option(help="A note for the user.")] = None,
    msg_id: Annotated[
        str | None, typer.Option(help="The event's id; the same id twice has its effect once.")
    ] = None,
    data: Data = Path(".towpath"),
) -> None:
    """Publish an order event as another backend does, and print its msg_id once the broker has it.

    It goes to TOWPATH_AMQP_URL, or to the `towpath dev` that runs here.
    """
    from towpath.tools.data_folder import DataFolder
    from towpath.tools.publish import publish_event

    fields = {
        "order_id": order,
        "user_id": user,
        "amount": amount,
        "currency": currency,
        "revision": revision,
        "detail": detail,
    }
    payload = {name: value for name, value in fields.items() if value is not None}
    typer.echo(publish_event(event, payload, msg_id=msg_id, folder=DataFolder(data)))


app.command()(request)
app.command()(listen)


@app.command()
def kick(
    user: Annotated[str, typer.Option(help="Whose connections are closed.", show_default=False)],
    reason: Annotated[str, typer.Option(help="A reason, shown to the user.", show_default=False)] = "kicked",
    data: Data = Path(".towpath"),
) -> None:
    """Close all connections of a user, on every gateway, with 4502: clients do not reconnect by themselves.

    The user's token stays valid; `towpath revoke --user` refuses it.
    """
    from towpath.tools.kick import kick as close

    typer.echo(close(user, reason=reason, data=data))


@app.command()
def revoke(
    user: Annotated[
        str | None, typer.Option(help="Tokens of this user, as far as they were issued before now.")
    ] = None,
    jti: Annotated[str | None, typer.Option(help="The one token with this id (its claim jti).")] = None,
    token: Annotated[
        Path | None, typer.Option(help="The token in this file; - for standard input.", show_default=False)
    ] = None,
    issued_before: Annotated[
        str | None,
        typer.Option(help="Tokens of all users issued before then: now, 2h (ago), 2026-11-23T10:30 (UTC)."),
    ] = None,
    lasts: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="How long tokens may still be valid: 12h, 30d. By default 30d, or until --token expires.",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="A note for operators.", show_default=False)] = "",
    list_: Annotated[bool, typer.Option("--list", help="Show what is revoked, and change nothing.")] = False,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Write what is revoked again where the broker would soon drop it."),
    ] = False,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Refuse tokens before they expire, on every gateway, also on those that start later.

    Sessions with such a token are closed with 4502. A user who gets a new token can connect with that.
    """
    from towpath.tools.revoke import Asked, carry_out

    asked = Asked(user, jti, token, issued_before, lasts, reason, list_=list_, compact=compact)
    carry_out(asked, as_json=as_json, data=data)


dead_letters = typer.Typer(
    cls=TyperGroup,
    no_args_is_help=True,
    context_settings=_HELP,
    help="Messages that services could not handle: list, show, replay or drop them.",
)
app.add_typer(dead_letters, name="dead-letters")

app.add_typer(effect_commands, name="effects")
ops_commands.add_to(app)
app.add_typer(broker_commands, name="broker")
app.add_typer(service_commands.new, name="new")
app.add_typer(service_commands.delete, name="delete")
app.add_typer(contract_commands, name="contract")

ServiceName = Annotated[str, typer.Argument(help="The service, for example orders.", show_default=False)]
MsgIds = Annotated[
    list[str] | None, typer.Argument(help="Those with these ids.", show_default=False, metavar="[MSG_ID]...")
]
Reason = Annotated[
    str | None, typer.Option(help="Those parked for this: unreadable, failed, crashed, hung, conflict …")
]
Action = Annotated[str | None, typer.Option(help="Those with this action, for example order.submit.")]
User = Annotated[str | None, typer.Option(help="Those of this user.")]
Since = Annotated[
    str | None, typer.Option(help="Those parked since then: 30m, 2h, 7d, 2026-11-23T10:30 (UTC).")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many it would be, and do nothing.")]
Audit = Annotated[
    Path | None, typer.Option(help="File to append a JSON line to, for each.", show_default=False)
]


@dead_letters.command("list")
def dead_letters_list(
    service: Annotated[
        str | None, typer.Argument(help="The service; every installed one if not given.", show_default=False)
    ] = None,
    reason: Reason = None,
    action: Action = None,
    user: User = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(help="Show so many at most.", min=1, max=100_000)] = 50,
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """List what is parked, oldest first. Nothing is changed by it."""
    from towpath.tools.dead_letters import list_

    list_(service, _wanted(None, reason, action, user, since), limit=limit, as_json=as_json, data=data)


@dead_letters.command("show")
def dead_letters_show(
    service: ServiceName,
    msg_id: Annotated[str, typer.Argument(help="Its id, as listed.", show_default=False, metavar="MSG_ID")],
    as_json: Json = False,
    data: Data = Path(".towpath"),
) -> None:
    """Show one message: why it is parked, all tries, and its body. Nothing is changed by it."""
    from towpath.tools.dead_letters import show

    show(service, msg_id, as_json=as_json, data=data)


@dead_letters.command("replay")
def dead_letters_replay(
    service: ServiceName,
    msg_ids: MsgIds = None,
    reason: Reason = None,
    action: Action = None,
    user: User = None,
    since: Since = None,
    rate: Annotated[
        float | None,
        typer.Option(help="So many a second at most.", min=0.01, max=100_000, show_default=False),
    ] = None,
    dry_run: DryRun = False,
    audit: Audit = None,
    data: Data = Path(".towpath"),
) -> None:
    """Play parked messages again: all, or those that fit what is given.

    Each goes to the queue it came from and keeps its msg_id, so what had its effect already has it no second time.
    """
    from towpath.tools.dead_letters import replay

    wanted = _wanted(msg_ids, reason, action, user, since)
    replay(service, wanted, dry_run=dry_run, rate=rate, audit=audit, data=data)


@dead_letters.command("drop")
def dead_letters_drop(
    service: ServiceName,
    msg_ids: MsgIds = None,
    reason: Reason = None,
    action: Action = None,
    user: User = None,
    since: Since = None,
    yes: Annotated[bool, typer.Option("--yes", help="Needed where they are not named by their ids.")] = False,
    dry_run: DryRun = False,
    audit: Audit = None,
    data: Data = Path(".towpath"),
) -> None:
    """Drop parked messages for good: those that fit what is given."""
    from towpath.tools.dead_letters import drop

    wanted = _wanted(msg_ids, reason, action, user, since)
    drop(service, wanted, yes=yes, dry_run=dry_run, audit=audit, data=data)


def _wanted(
    ids: list[str] | None, reason: str | None, action: str | None, user: str | None, since: str | None
) -> "Wanted":
    from towpath.tools import parked, times

    at = None if since is None else times.since(since)
    return parked.Wanted(frozenset(ids or ()), reason, action, user, at)


def _error_text(error: Exception) -> tuple[int, str]:
    """The exit status and the line for a person; an unforeseen error has a traceback on request."""
    from towpath.servicekit.broker.interface import BrokerError, BrokerRefused
    from towpath.servicekit.installed import BadEntryPoint
    from towpath.servicekit.runtime.settings import BadSetting

    if isinstance(error, typer.TyperException):
        return error.exit_code, _one_line(error.format_message().replace("Value error, ", ""))
    if isinstance(error, Trouble):
        return error.status, _one_line(str(error))
    if isinstance(error, BadSetting | BadEntryPoint | BrokerRefused):
        return 2, _one_line(str(error))
    if isinstance(error, BrokerError):
        return 1, _one_line(str(error))
    if os.environ.get("TOWPATH_LOG_LEVEL") == "debug":
        raise error
    said = _one_line(str(error))
    return (
        1,
        f"unexpected {type(error).__name__}: {said}; TOWPATH_LOG_LEVEL=debug shows where, please report it",
    )


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "it failed without a reason"
