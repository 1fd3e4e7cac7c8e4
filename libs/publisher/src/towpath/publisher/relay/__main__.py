"""The program ``towpath-relay``: publishes an outbox; its commands make the outbox and look after parked events."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

_EPILOG: Final = """\
Settings are environment variables: TOWPATH_DATABASE_URL (PostgreSQL), TOWPATH_AMQP_URL, TOWPATH_RELAY_APP_ID, and
others in docs/reference/settings.md. With exit status 78 (a setting) or 77 (RabbitMQ refuses the account) a restart
would not help; the line on standard error has the remedy.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    parsed = parser().parse_args(arguments)
    try:
        from towpath.publisher.relay.commands import COMMANDS, CannotStart
    except ModuleNotFoundError as error:
        sys.stderr.write(f"towpath-relay needs {error.name}: pip install 'towpath-publisher[relay]'\n")
        sys.exit(2)
    try:
        asyncio.run(COMMANDS[parsed.command](parsed))
    except CannotStart as error:
        sys.stderr.write(f"towpath-relay: {error}\n")
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    program = argparse.ArgumentParser(
        prog="towpath-relay",
        description="Publish events from the outbox of a PostgreSQL database; without a command until SIGTERM.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    program.add_argument("--version", action="version", version=f"%(prog)s {version('towpath-publisher')}")
    program.set_defaults(command="run")
    commands = program.add_subparsers(title="commands", metavar="COMMAND")
    for name, text in (
        ("install", "make the table towpath_outbox and the function towpath_publish; again changes nothing"),
        ("sql", "print the SQL that install runs"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(command=name)
        command.add_argument(
            "--publisher",
            action="append",
            default=[],
            metavar="USER",
            help="a user that may call towpath_publish",
        )
        command.add_argument(
            "--relay",
            action="append",
            default=[],
            metavar="USER",
            help="the user that towpath-relay logs in with",
        )
    text = "list the events that could not be published, with the reasons"
    commands.add_parser("parked", help=text, description=text).set_defaults(command="parked")
    text = "let parked events be published again"
    retry = commands.add_parser("retry", help=text, description=text)
    retry.set_defaults(command="retry")
    retry.add_argument("row", type=int, nargs="*", help="of `towpath-relay parked`")
    retry.add_argument("--all", action="store_true", help="all of them")
    text = "delete parked events without publishing them; later events of their aggregates continue"
    drop = commands.add_parser("drop", help=text, description=text)
    drop.set_defaults(command="drop")
    drop.add_argument("row", type=int, nargs="+", help="of `towpath-relay parked`")
    return program


if __name__ == "__main__":
    main()
