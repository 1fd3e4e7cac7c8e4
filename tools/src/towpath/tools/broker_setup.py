"""``towpath broker setup``: give each program an account of its own on a RabbitMQ.

Guarantees:

* Nothing is removed, and no queue that exists is changed: an import adds what is missing, and sets passwords,
  permissions and the bound of queues. The same input changes nothing the second time.
* Passwords are never arguments and are never printed: they come from the environment
  (``TOWPATH_BROKER_PASSWORD_<ACCOUNT>``) or from a file that only its owner can read. A missing one is made, and
  written to that file before anything else happens.
* ``--check`` names accounts that are there beside these, such as ``guest``: they may do more than they should.
"""

import json
import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from towpath.servicekit.installed import installed_services
from towpath.tools import definitions
from towpath.tools.definitions import Account, BadAccount
from towpath.tools.trouble import Trouble

PASSWORD: Final = "TOWPATH_BROKER_PASSWORD_"  # noqa: S105  # the name of a variable

_CTL_SECONDS: Final = 120.0
_IMPORT_SECONDS: Final = 30.0
_OWNER_ONLY: Final = 0o600
_LINE: Final = re.compile(rf"({PASSWORD}[A-Z0-9_]+)=(\S+)")


class NoPassword(Trouble):
    """An account has no password, and there is no file to write a new one to."""

    status = 2


class BadSecrets(Trouble):
    """The file of passwords cannot be used."""

    status = 2


class NotSetUp(Trouble):
    """RabbitMQ did not take the definitions, or has others."""


class _Known(NamedTuple):
    """A service, as :func:`definitions.service` takes it."""

    name: str
    domain: str
    events: Sequence[str]
    publishes: Sequence[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The accounts to have.

    Attributes:
        services: ``name:domain`` or ``name:domain:event,event`` of services that are not installed here; behind one
            more colon the events of other domains that it publishes.
        backends: ``name`` or ``name:domain,domain``.
        kick, revoke: Names of backends that may end connections, or revoke tokens.
        queue_max_bytes: Bytes that each queue of a service may hold.
    """

    services: Sequence[str] = ()
    backends: Sequence[str] = ()
    kick: Sequence[str] = ()
    revoke: Sequence[str] = ()
    queue_max_bytes: int = definitions.QUEUE_MAX_BYTES

    def accounts(self) -> list[Account]:
        """One account for gateways, each service, the ingress, each backend, and operators.

        Raises:
            BadAccount
        """
        installed = [one.definition() for one in installed_services()]
        known = [_Known(one.name, one.domain, list(one.events), list(one.publishes)) for one in installed]
        known += map(_service, self.services)
        heard = {event.partition(".")[0] for one in known for event in one.events}
        found = [
            definitions.gateway(),
            *(definitions.service(*one) for one in known),
            definitions.ingress({one.domain for one in known} | heard),
            *(self._backend(text) for text in self.backends or ("backend",)),
            definitions.operators(one.domain for one in known),
        ]
        names = [account.name for account in found]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise BadAccount(f"two programs would have the account {double!r}: name one of them otherwise")
        if stranger := next((name for name in (*self.kick, *self.revoke) if name not in names), None):
            raise BadAccount(f"{stranger!r} is none of the backends: name it with --backend as well")
        return found

    def render(self, passwords: Mapping[str, str], vhost: str = "/") -> dict[str, Any]:
        """The document that RabbitMQ imports.

        Raises:
            BadAccount
        """
        return definitions.render(self.accounts(), passwords, vhost, self.queue_max_bytes)

    def _backend(self, text: str) -> Account:
        name, colon, domains = text.partition(":")
        chosen = [domain for domain in domains.split(",") if domain] if colon else ["order"]
        return definitions.backend(name, chosen, kicks=name in self.kick, revokes=name in self.revoke)


def _service(text: str) -> _Known:
    """A service that is not installed here."""
    name, _, rest = text.partition(":")
    domain, _, rest = rest.partition(":")
    events, _, published = rest.partition(":")
    if not domain:
        raise BadAccount(f"--service {text!a}: write it as name:domain, or name:domain:event,event")
    return _Known(name, domain, _listed(events), _listed(published))


def _listed(text: str) -> list[str]:
    return [event for event in text.split(",") if event]


def variable(account: str) -> str:
    """The variable with the password of an account."""
    return PASSWORD + re.sub(r"[^A-Z0-9]", "_", account.upper())


def passwords(accounts: Iterable[Account], kept: Path | None) -> dict[str, str]:
    """Account → password: from the environment, else from the file ``kept``, else a new one in that file.

    Raises:
        NoPassword, BadSecrets
    """
    known = _read(kept) if kept is not None else {}
    made: dict[str, str] = {}
    found: dict[str, str] = {}
    for account in accounts:
        name = variable(account.name)
        password = os.environ.get(name) or known.get(name)
        if password is None:
            if kept is None:
                raise NoPassword(
                    f"{name}: is not set; set it, or give --secrets a file to keep new passwords in"
                )
            password = made[name] = secrets.token_urlsafe(32)
        found[account.name] = password
    if kept is not None and made:
        _append(kept, made)
    return found


def document(wanted: Wanted, kept: Path | None, vhost: str) -> str:
    """The definitions with the hashes of the passwords, as RabbitMQ imports them."""
    return _text(wanted.render(passwords(wanted.accounts(), kept), vhost))


def public(wanted: Wanted) -> str:
    """The definitions without passwords (deploy/rabbitmq/definitions.json): no login succeeds with them."""
    return _text(wanted.render({}))


def write(text: str, path: Path) -> None:
    """Write definitions to a file that others can read, as RabbitMQ runs under another user: it has only hashes."""
    path.write_text(text, encoding="utf-8")


def import_by_ctl(text: str, command: Sequence[str]) -> None:
    """Import definitions with ``rabbitmqctl``, which must be able to read a temporary file here.

    Raises:
        NotSetUp
    """
    # Not by its standard input: rabbitmqctl 4.0 waits for ever there.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "definitions.json")
        # It becomes another user when root runs it.
        Path(folder).chmod(0o755)
        write(text, path)
        _ctl([*command, "import_definitions", str(path)])


def check(wanted: Wanted, vhost: str, command: Sequence[str]) -> list[str]:
    """The differences between RabbitMQ and the definitions, one a line; passwords are not compared."""
    text = _ctl([*command, "export_definitions", "-"])
    try:
        found = json.loads(text[text.index("{") :])
    except ValueError:
        raise NotSetUp(f"`{' '.join(command)} export_definitions -` printed no definitions") from None
    return list(differences(wanted.render({}, vhost), found, vhost))


def until_set_up(wanted: Wanted, vhost: str, command: Sequence[str]) -> None:
    """Wait until RabbitMQ has everything: it imports definitions in the background.

    Raises:
        NotSetUp: It has not within half a minute.
    """
    deadline = time.monotonic() + _IMPORT_SECONDS
    while True:
        found = check(wanted, vhost, command)
        try:
            return must_be_set_up(found)
        except NotSetUp:
            if time.monotonic() > deadline:
                raise NotSetUp(
                    f"RabbitMQ did not take all definitions: {found[0]}; its log gives the reason"
                ) from None
        time.sleep(1.0)


def must_be_set_up(found: Sequence[str]) -> None:
    """Fail if something is missing or differs; what is there beside ours is for the operator to judge.

    Raises:
        NotSetUp
    """
    wrong = [line for line in found if not line.startswith(_BESIDE)]
    if wrong:
        raise NotSetUp(f"{len(wrong)} of this is missing or differs: run `towpath broker setup`")


#: How a line begins that names what is there beside ours.
_BESIDE: Final = "also there: "
#: Kind → the fields that identify one, and the fields that are compared.
_COMPARED: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "users": (("name",), ("tags",)),
    "permissions": (("user",), ("configure", "write", "read")),
    "topic_permissions": (("user", "exchange"), ("write", "read")),
    "exchanges": (("name",), ("type", "durable")),
    "queues": (("name",), ("durable", "arguments")),
    "bindings": (("source", "destination", "routing_key"), ()),
    "parameters": (("component", "name"), ("value",)),
}
#: Of these, what is there beside ours is named: it may do more than ours.
_ALONE: Final = ("users", "permissions", "topic_permissions")


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any], vhost: str) -> Iterable[str]:
    """Missing parts, parts that differ, and accounts that are there beside those wanted; one a line."""
    for kind, (identity, fields) in _COMPARED.items():
        there = _by_identity(found.get(kind, []), identity, vhost)
        for key, one in _by_identity(wanted[kind], identity, vhost).items():
            title = f"{kind} {' '.join(key)}"
            if key not in there:
                yield f"missing: {title}"
                continue
            for field in fields:
                if (has := _plain(there[key].get(field))) != (wants := _plain(one[field])):
                    yield f"differs: {title}: {field} is {has!r}, not {wants!r}"
        if kind in _ALONE:
            ours = _by_identity(wanted[kind], identity, vhost)
            yield from (f"{_BESIDE}{kind} {' '.join(key)}" for key in there if key not in ours)


def _by_identity(
    items: Iterable[Mapping[str, Any]], identity: Sequence[str], vhost: str
) -> dict[tuple[str, ...], Mapping[str, Any]]:
    return {
        tuple(str(one[field]) for field in identity): one for one in items if one.get("vhost", vhost) == vhost
    }


def _plain(value: Any) -> Any:
    # RabbitMQ exports tags as a list, and imports them as text.
    return ",".join(value) if isinstance(value, list) else value


def _ctl(command: Sequence[str]) -> str:
    try:
        ran = subprocess.run(  # noqa: S603  # the operator names the program
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_CTL_SECONDS,
            check=False,
        )
    except OSError as error:
        raise NotSetUp(f"{command[0]!a} cannot be run: {error.strerror}; name it with --ctl") from None
    except subprocess.TimeoutExpired:
        raise NotSetUp(f"{command[0]!a} did not end within {_CTL_SECONDS:g} s") from None
    if ran.returncode != 0:
        lines = [line for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
        raise NotSetUp(f"{command[0]!a} ended with {ran.returncode}: {' '.join(lines)[:300]}")
    return ran.stdout


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.stat().st_mode & 0o077:
            raise BadSecrets(f"{str(path)!a} can be read by others: chmod 600 it, and change the passwords")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadSecrets(f"{str(path)!a} cannot be read: {error}") from None
    return {match[1]: match[2] for line in text.splitlines() if (match := _LINE.fullmatch(line.strip()))}


def _append(path: Path, made: Mapping[str, str]) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _OWNER_ONLY)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{name}={password}\n" for name, password in made.items())
    except OSError as error:
        raise BadSecrets(f"{str(path)!a} cannot be written: {error.strerror}") from None


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"
