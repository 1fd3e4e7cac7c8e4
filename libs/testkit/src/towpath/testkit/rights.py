"""Rights: Towpath's programs log in to RabbitMQ under the accounts that ``towpath broker setup`` makes.

A program that a test starts with the address of the test's own account, which may do everything, gets the address of
its own account instead. Tests keep theirs: they look into queues, delete them, and publish what no program would.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from towpath.tools import definitions
from towpath.tools.broker_setup import Wanted
from towpath.tools.definitions import Account
from towpath.tools.rabbitmq_node import RabbitControl

_URL: Final = "TOWPATH_AMQP_URL"
_GATEWAY_USERS: Final = "TOWPATH_GATEWAY_USERS"
_PREFIX: Final = "towpath-"
#: Commands of ``towpath`` → the account that they need.
_COMMANDS: Final = {
    "web": "backend",
    "publish": "backend",
    "dead-letters": definitions.OPS,
    "kick": definitions.OPS,
    "revoke": definitions.OPS,
    "status": definitions.OPS,
    "doctor": definitions.OPS,
    "tap": definitions.OPS,
    "who": definitions.OPS,
    "connections": definitions.OPS,
    "drain": definitions.OPS,
    "rolling": definitions.OPS,
    "topology": definitions.OPS,
}


class Rights:
    """The accounts of one run of tests, in all virtual hosts that were given to :meth:`grant`.

    Args:
        wanted: The accounts; by default one for each program of this environment.
    """

    def __init__(self, wanted: Wanted | None = None) -> None:
        self.accounts: Sequence[Account] = (wanted or Wanted()).accounts()
        self._names = {account.name for account in self.accounts}
        self._password = secrets.token_urlsafe(18)
        self._vhosts: set[str] = set()

    async def grant(self, control: RabbitControl, vhost: str) -> None:
        """Import the definitions into a virtual host that exists."""
        passwords = dict.fromkeys(self._names, self._password)
        await control.import_definitions(json.dumps(definitions.render(self.accounts, passwords, vhost)))
        self._vhosts.add(vhost)

    def url(self, everything: str, account: str) -> str:
        """The address ``everything`` with another account."""
        scheme, _, rest = everything.partition("://")
        return f"{scheme}://{account}:{self._password}@{rest.rpartition('@')[2]}"

    def environment(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> dict[str, str]:
        """The environment of a program, with its own account if it has one."""
        changed = dict(environment)
        account = self._account_of(program, arguments)
        given = changed.get(_URL, "")
        if account is None or unquote(given.rpartition("/")[2].partition("?")[0]) not in self._vhosts:
            return changed
        if f"://{RabbitControl.user}:" in given:
            changed[_URL] = self.url(given, account)
            if account not in (definitions.GATEWAY, definitions.INGRESS, definitions.OPS, "backend"):
                changed.setdefault(_GATEWAY_USERS, definitions.GATEWAY)
        return changed

    def _account_of(self, program: str, arguments: Sequence[str]) -> str | None:
        name = Path(program).name
        if name == "towpath":
            return next((_COMMANDS[word] for word in arguments if word in _COMMANDS), None)
        # A service without a program in this environment is run from its file: `python -P bench/echo.py`.
        name = Path(arguments[1]).stem if arguments[:1] == ["-P"] else name.removeprefix(_PREFIX)
        return name if name in self._names else None
