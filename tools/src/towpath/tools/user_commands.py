"""The commands ``towpath request`` and ``towpath listen``; each loads what it needs when it runs."""

from pathlib import Path
from typing import Annotated

import typer

User = Annotated[str, typer.Option(help="The user.", show_default=False)]
Scope = Annotated[
    str | None, typer.Option(help='Domains the user may address, for example "chat order". All if not given.')
]
Gateway = Annotated[
    str | None,
    typer.Option(help="The gateway's address. The one of the `towpath dev` that runs here if not given."),
]
Lines = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Data = Annotated[Path, typer.Option(help="Folder of `towpath dev`, with its secret.")]


def request(
    action: Annotated[str, typer.Argument(help="For example order.list.", show_default=False)],
    user: User,
    payload: Annotated[
        str, typer.Argument(metavar="[DATA]", help="A JSON object; - to read it from standard input.")
    ] = "{}",
    scope: Scope = None,
    key: Annotated[
        str | None, typer.Option(help="Ordering key: requests with the same one keep their order.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the answer.", min=0.001, max=86_400)
    ] = 30.0,
    gateway: Gateway = None,
    as_json: Lines = False,
    data: Data = Path(".towpath"),
) -> None:
    """Send a request as a user and print the answer; an error answer is exit status 1.

    The token is made as `towpath token` makes it.
    """
    from towpath.tools import as_user

    as_user.request(
        action,
        payload,
        user=user,
        scope=scope,
        key=key,
        seconds=timeout,
        gateway=gateway,
        folder=data,
        as_lines=as_json,
    )


def listen(
    user: User,
    actions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ACTION]...", help="Only pushes with these actions.", show_default=False),
    ] = None,
    scope: Scope = None,
    gateway: Gateway = None,
    as_json: Lines = False,
    data: Data = Path(".towpath"),
) -> None:
    """Print the pushes to a user until Ctrl-C.

    Pushes to a group arrive if its service subscribes the connections of this user, as chat does for one's rooms.
    """
    from towpath.tools import as_user

    as_user.listen(actions or (), user=user, scope=scope, gateway=gateway, folder=data, as_lines=as_json)
