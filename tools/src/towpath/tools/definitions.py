"""Definitions: the accounts that Towpath's programs have on RabbitMQ, and what each of them may do. No I/O.

One account for gateways, one for each service, one for the ingress, one for each other backend, one for operators;
docs/adr/0026 gives the reasons, docs/reference/protocol.md the table. Guarantees:

* An account may do what its program does, and nothing more (``tools/tests/test_definitions.py`` compares the patterns
  with what the programs declare, bind and publish).
* Every exchange that an account can reach has a row of topic permissions: RabbitMQ allows all keys where there is
  none. https://www.rabbitmq.com/docs/access-control#topic-authorisation
* All patterns are anchored: RabbitMQ searches them in the name.
* Equal passwords give equal definitions, so that importing them again changes nothing.
* The queues of a service that is down fill no disk, which would be an alarm for all: an operator policy
  bounds their bytes.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from towpath.protocol.operators import ASK_ALL
from towpath.protocol.revocations import DAYS_MAX, LOG_BYTES, READER, REVOCATIONS, REVOKE_ALL, Kind
from towpath.protocol.routes import (
    COMMANDS,
    EVENTS,
    EXCHANGES,
    PARTITIONS,
    PROBE,
    PUSH,
    SERVICE_ALIVE,
    SERVICE_REPLICA,
    SESSION_ALIVE,
    SESSION_ENDED,
)
from towpath.tools.trouble import Trouble

GATEWAY: Final = "gateway"
OPS: Final = "ops"
INGRESS: Final = "ingress"

#: An encoded word of a routing key (:func:`towpath.protocol.routes.encode_word`).
_WORD: Final = "[A-Za-z0-9_:%-]+"
#: The rest of an event's name, behind its domain.
_WORDS: Final = r"(\.[a-z][a-z0-9_]*)+"
_PARTITION: Final = f"[0-{PARTITIONS - 1}]"
#: Keys under which each program checks at its start that it may publish (`proof`), and which no queue is bound to.
_PROOF: Final = "proof"
_PROBE: Final = "probe-[0-9a-f]+"
#: As `towpath.protocol.operators.ASKER`, without a number of repetitions: RabbitMQ expands `{…}` in these patterns.
_ASKER: Final = "ops-[0-9a-f]+"
_NOTHING: Final = "^$"
#: As gateways declare the log of revocations; a test compares all its arguments.
_SEGMENT_BYTES: Final = 1_000_000
_DOMAIN: Final = re.compile(r"[a-z][a-z0-9_]*")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: First words of names that no service's queues may begin with.
_TAKEN: Final = ("towpath", "backend", "amq")
#: Of each queue of a service: 36 such queues, of 4 services, fit on the disk of deploy/k8s/rabbitmq.
QUEUE_MAX_BYTES: Final = 268_435_456
#: Domains whose events only gateways and services publish.
_OURS: Final = ("session", "service", _PROOF)


class BadAccount(Trouble):
    """An account that cannot be defined."""

    status = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of RabbitMQ, and its permissions in one virtual host, as regular expressions.

    Attributes:
        configure, write, read: The names of exchanges and queues.
        topics: Exchange → the routing keys that it may publish under, and the keys that it may bind.
        queues: A service's: the names of its queues, whose bytes are bounded.
    """

    name: str
    configure: str
    write: str
    read: str
    topics: Mapping[str, tuple[str, str]]
    queues: str = ""


def gateway() -> Account:
    """The account of gateways: all commands, session events, and no push except probes of its own bindings."""
    own = r"gateway\..+"
    return Account(
        name=GATEWAY,
        configure=f"^{own}$",
        write=_any_of(_names(PUSH, COMMANDS, EVENTS), own),
        read=_any_of(_names(PUSH, EVENTS, REVOCATIONS), own),
        topics={
            COMMANDS: (_any_of(rf"[a-z][a-z0-9_]*\.{_PARTITION}", _PROOF), _NOTHING),
            EVENTS: (_any_of(r"session\.(started|alive|ended)", _PROOF), _any_of(_literally(SERVICE_ALIVE))),
            PUSH: (
                _any_of(
                    rf"probe\.{_WORD}",
                    rf"(user|group|control|everyone|connection\.{_WORD})\.{_PROBE}",
                    _literally(READER),
                    _PROOF,
                ),
                _any_of(
                    rf"(everyone|connection\.{_WORD})\.#",
                    r"(user|group|control)\.\*(\.\*\.#)?",
                    rf"\*\.{_WORD}",
                ),
            ),
        },
    )


def service(name: str, domain: str, events: Iterable[str] = (), publishes: Iterable[str] = ()) -> Account:
    """The account of a service: its own queues, commands of its domain, pushes to users and to its own groups.

    Args:
        events: The events that it handles.
        publishes: Events of other domains that it publishes, each by its name.
    """
    _check(name, domain)
    if name in _TAKEN:
        # Its queues would be named like exchanges, or like the queues of other backends.
        raise BadAccount(f"a service named {name!r} cannot have an account of its own: name it otherwise")
    own = rf"{re.escape(name)}\..+"
    kit = (SERVICE_ALIVE, SERVICE_REPLICA, SESSION_ENDED, f"proof.{name}")
    commands = rf"{domain}\.{_PARTITION}"
    return Account(
        name=name,
        configure=f"^{own}$",
        queues=own,
        write=_any_of(_names(PUSH, EVENTS, COMMANDS), own),
        read=_any_of(_names(COMMANDS, EVENTS), own),
        topics={
            COMMANDS: (_any_of(commands, _PROOF), _any_of(commands)),
            EVENTS: (
                _any_of(
                    rf"{domain}{_WORDS}",
                    *map(_literally, sorted(publishes)),
                    r"service\.(alive|replica)",
                    rf"{_PROOF}(\.{re.escape(name)})?",
                ),
                _any_of(*map(_literally, sorted({*events, *kit}))),
            ),
            PUSH: (
                _any_of(
                    rf"(connection|user|control)\.{_WORD}", rf"group\.{domain}:{_WORD}", "everyone", _PROOF
                ),
                _NOTHING,
            ),
        },
    )


def backend(
    name: str, domains: Iterable[str] = ("order",), *, kicks: bool = False, revokes: bool = False
) -> Account:
    """The account of another backend: events of some domains, and pushes to users. It sends no command.

    Args:
        domains: Their events it may publish, and consume from queues of its own, ``backend.<name>.…``.
        kicks: It may also end the connections of users.
        revokes: It may also revoke tokens and users.
    """
    chosen = list(domains)
    _check(name, *chosen)
    if ours := [domain for domain in chosen if domain in _OURS]:
        raise BadAccount(f"the backend {name!r} cannot publish {ours[0]}.*: only gateways and services do")
    own = rf"backend\.{re.escape(name)}\..+"
    names = "|".join(chosen)
    events = rf"({names}){_WORDS}", rf"({names})(\.[a-z0-9_]+|\.\*)+"
    pushes = [rf"user\.{_WORD}"]
    pushes += [rf"control\.{_WORD}"] if kicks else []
    pushes += [_any_key(Kind.USER, Kind.TOKEN)] if revokes else []
    return Account(
        name=name,
        configure=f"^{own}$",
        write=_any_of(_names(EVENTS, PUSH), own),
        read=_any_of(_names(EVENTS), own),
        topics={
            COMMANDS: (_NOTHING, _NOTHING),
            EVENTS: (_any_of(events[0]), _any_of(events[1])) if chosen else (_NOTHING, _NOTHING),
            PUSH: (_any_of(*pushes), _NOTHING),
        },
    )


def ingress(domains: Iterable[str]) -> Account:
    """The account of the HTTP ingress: events of all domains that a service owns or hears, and pushes to users.

    It has no queue and reads nothing. Each API key has fewer rights, which the ingress keeps (towpath.ingress.keys).
    """
    chosen = sorted(set(domains) - set(_OURS))
    names = "|".join(chosen)
    return Account(
        name=INGRESS,
        configure=_NOTHING,
        write=_any_of(_names(EVENTS, PUSH)),
        read=_NOTHING,
        topics={
            COMMANDS: (_NOTHING, _NOTHING),
            EVENTS: (_any_of(rf"({names}){_WORDS}", _PROOF) if chosen else f"^{_PROOF}$", _NOTHING),
            PUSH: (_any_of(rf"user\.{_WORD}", _PROOF), _NOTHING),
        },
    )


def operators(domains: Iterable[str] = ()) -> Account:
    """The account of operators' tools: dead letters, kicks, revocations, questions to gateways, and taps.

    Its own queues are exclusive to its connection. It reads what it taps, so it can read what users write.

    Args:
        domains: Domains whose commands and events it may tap; those of gateways and of announcements never.
    """
    chosen = sorted(set(domains) - set(_OURS))
    names = "|".join(chosen)
    own = rf"{OPS}\..+"
    announced = [_literally(SERVICE_ALIVE), _literally(SERVICE_REPLICA), _literally(SESSION_ALIVE)]
    gateways = [_literally(ASK_ALL), rf"connection\.{_WORD}\.(ask|drain)"]
    return Account(
        name=OPS,
        configure=f"^{own}$",
        write=_any_of(_names(PUSH), own, r"[A-Za-z0-9_-]+\.again"),
        read=_any_of(_names(PUSH, EVENTS, COMMANDS, REVOCATIONS), own, r"[A-Za-z0-9_-]+\.dead"),
        topics={
            COMMANDS: (_NOTHING, _any_of(rf"({names})\.{_PARTITION}") if chosen else _NOTHING),
            EVENTS: (_NOTHING, _any_of(*announced, *([rf"({names})\.#"] if chosen else []))),
            PUSH: (
                _any_of(rf"control\.{_WORD}", _any_key(*Kind), _literally(READER), *gateways),
                _any_of(rf"(user|group)\.{_WORD}", rf"{PROBE}\.{_ASKER}"),
            ),
        },
    )


def render(
    accounts: Iterable[Account],
    passwords: Mapping[str, str],
    vhost: str = "/",
    queue_max_bytes: int = QUEUE_MAX_BYTES,
) -> dict[str, Any]:
    """The document that RabbitMQ imports: accounts, exchanges of the contract, log of revocations, bounds of queues.

    Services make their own queues. An account without a password cannot log in.
    https://www.rabbitmq.com/docs/definitions

    Args:
        queue_max_bytes: Bytes that each queue of a service may hold; RabbitMQ refuses further publishes.
    """
    known = list(accounts)
    here = {"vhost": vhost}
    queues = [account.queues for account in known if account.queues]
    return {
        "vhosts": [{"name": vhost}],
        "users": [
            {
                "name": account.name,
                "password_hash": password_hash(account.name, passwords.get(account.name)),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                # Never `impersonator`: it may name another account in `user_id`, which services believe.
                "tags": "",
            }
            for account in known
        ],
        "permissions": [
            {
                "user": account.name,
                **here,
                "configure": account.configure,
                "write": account.write,
                "read": account.read,
            }
            for account in known
        ],
        "topic_permissions": [
            {"user": account.name, **here, "exchange": exchange, "write": write, "read": read}
            for account in known
            for exchange, (write, read) in account.topics.items()
        ],
        "exchanges": [
            {"name": name, **here, "type": "topic", "durable": True, "auto_delete": False, "internal": False}
            | {"arguments": {}}
            for name in EXCHANGES
        ],
        "queues": [
            {"name": REVOCATIONS, **here, "durable": True, "auto_delete": False}
            | {
                "arguments": {
                    "x-queue-type": "stream",
                    "x-max-length-bytes": LOG_BYTES,
                    "x-stream-max-segment-size-bytes": _SEGMENT_BYTES,
                    "x-max-age": f"{DAYS_MAX}D",
                }
            }
        ],
        "bindings": [
            {"source": PUSH, **here, "destination": REVOCATIONS, "destination_type": "queue"}
            | {"routing_key": REVOKE_ALL, "arguments": {}}
        ],
        "parameters": [_bytes_policy(_any_of(*queues), queue_max_bytes) | here] if queues else [],
    }


def password_hash(name: str, password: str | None) -> str:
    """RabbitMQ's form of a password: base64 of a salt of four bytes, and the SHA-256 of salt and password.

    https://www.rabbitmq.com/docs/passwords#computing-password-hash
    """
    if not password:
        return ""
    secret = password.encode()
    # Not random, so that the same password gives the same file; the passwords themselves are random.
    salt = hashlib.sha256(name.encode() + b"\0" + secret).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + secret).digest()).decode()


def _check(name: str, *domains: str) -> None:
    if not _NAME.fullmatch(name) or name in (GATEWAY, INGRESS, OPS):
        raise BadAccount(f"{name!r} cannot be the name of an account: use other letters, digits, - and _")
    for domain in domains:
        if not _DOMAIN.fullmatch(domain):
            raise BadAccount(f"{domain!r} is not a domain: a word of small letters, digits and _")


def _bytes_policy(queues: str, most: int) -> dict[str, Any]:
    """An operator policy that bounds the bytes of queues.

    A policy, since no argument of a queue that exists can change; and an operator policy, since RabbitMQ applies it
    beside others, and of two bounds the smaller one: https://www.rabbitmq.com/docs/policies#operator-policies
    """
    value = {"pattern": queues, "apply-to": "queues", "priority": 0}
    value |= {"definition": {"max-length-bytes": most}}
    return {"component": "operator_policy", "name": "towpath-services", "value": value}


def _any_of(*patterns: str) -> str:
    """The pattern of exactly one of these. The most frequent first: RabbitMQ tries them in their order."""
    return f"^({'|'.join(patterns)})$"


def _names(*names: str) -> str:
    """Exchanges or the log of revocations, whose names begin with ``towpath.``."""
    words = "|".join(_literally(name.removeprefix("towpath.")) for name in names)
    return rf"towpath\.({words})"


def _any_key(*kinds: Kind) -> str:
    """The keys of some kinds of revocations."""
    return "|".join(_literally(kind.key) for kind in kinds)


def _literally(name: str) -> str:
    return re.escape(name).replace(r"\-", "-")
