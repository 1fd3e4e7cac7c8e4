"""The commands ``towpath effects …``; each loads what it needs when it runs."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from towpath.servicekit.storage.effect_repairs import Wanted

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Calls of services to the outside that wait or failed for good: list, retry or drop them.",
)


class State(StrEnum):
    """States of an effect that has not ended well."""

    PARKED = "parked"
    WAITING = "waiting"


ServiceName = Annotated[
    str, typer.Argument(help="The service, for example notifications.", show_default=False)
]
Keys = Annotated[
    list[str] | None, typer.Argument(help="Those with these keys.", show_default=False, metavar="[KEY]...")
]
Effect = Annotated[str | None, typer.Option(help="Those of this name, for example send_mail.")]
States = Annotated[
    list[State] | None,
    typer.Option("--state", help="Those in this state; once for each. [dim]parked[/]", show_default=False),
]
Data = Annotated[
    Path,
    typer.Option(help="Folder of a `towpath dev`, whose databases are used without TOWPATH_DATABASE_URL."),
]


@app.command("list")
def effects_list(
    service: Annotated[
        str | None, typer.Argument(help="The service; every installed one if not given.", show_default=False)
    ] = None,
    effect: Effect = None,
    state: States = None,
    limit: Annotated[int, typer.Option(help="Show so many at most.", min=1, max=100_000)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    data: Data = Path(".towpath"),
) -> None:
    """List parked and waiting effects, those first that are due longest. Nothing is changed by it."""
    from towpath.tools.effects import list_

    list_(service, _wanted(None, effect, state or list(State)), limit=limit, as_json=as_json, data=data)


@app.command("retry")
def effects_retry(
    service: ServiceName,
    keys: Keys = None,
    effect: Effect = None,
    state: States = None,
    data: Data = Path(".towpath"),
) -> None:
    """Make parked effects due again, with all their attempts: all, or those that fit what is given.

    Each call has the same id as before, and is not made again if it has succeeded: then only its result is handled.
    """
    from towpath.tools.effects import retry

    retry(service, _wanted(keys, effect, state or [State.PARKED]), data=data)


@app.command("drop")
def effects_drop(
    service: ServiceName,
    keys: Keys = None,
    effect: Effect = None,
    state: States = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Needed where they are not named by their keys.")
    ] = False,
    data: Data = Path(".towpath"),
) -> None:
    """Give up parked effects: they count as done, without a call. Their keys are kept like those of all others."""
    from towpath.tools.effects import drop

    drop(service, _wanted(keys, effect, state or [State.PARKED]), yes=yes, data=data)


def _wanted(keys: Sequence[str] | None, effect: str | None, states: Sequence[State]) -> "Wanted":
    from towpath.servicekit.storage.effect_repairs import Wanted

    return Wanted(frozenset(keys or ()), effect, [state.value for state in states])
