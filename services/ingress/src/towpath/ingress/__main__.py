"""``towpath-ingress``: the program, and ``towpath-ingress key`` for its operator."""

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from towpath.ingress import keys
from towpath.ingress.app import serve
from towpath.ingress.settings import IngressSettings
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.run import run


def main() -> NoReturn:
    options = _parser().parse_args()
    if options.command == "key":
        sys.exit(_make_key(options))
    run("ingress", serve, IngressSettings)


def _make_key(options: argparse.Namespace) -> int:
    file = options.file or os.environ.get(keys.SETTING)
    if not file:
        print(f"towpath-ingress: set {keys.SETTING}, or name the file with --file", file=sys.stderr)  # noqa: T201
        return ExitStatus.BAD_SETTING
    try:
        made = keys.make(Path(file), options.name, tuple(options.events), push=options.push)
    except keys.BadKeys as error:
        print(f"towpath-ingress: {error}", file=sys.stderr)  # noqa: T201  # for the operator
        return ExitStatus.BAD_SETTING
    print(made)  # noqa: T201  # the only time that it is shown
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="towpath-ingress",
        description="Serve POST /v1/events and /v1/push. Settings are variables: docs/reference/settings.md.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('towpath-ingress')}")
    commands = parser.add_subparsers(dest="command", title="commands")
    key = commands.add_parser("key", help="make an API key, and print it once; the file gets its hash")
    key.add_argument("name", help="the sender of all that is sent with it")
    key.add_argument(
        "--events",
        nargs="+",
        default=[],
        metavar="EVENT",
        help="it may publish these: order.paid, 'order.*', '*'",
    )
    key.add_argument("--push", action="store_true", help="it may push to users")
    key.add_argument("--file", help=f"the file of keys; by default the one that {keys.SETTING} names")
    return parser


if __name__ == "__main__":
    main()
