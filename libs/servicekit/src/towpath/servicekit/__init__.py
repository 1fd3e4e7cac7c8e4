"""The kit that services are built with. These are its public names; everything else is internal.

::

    runtime < broker < messaging < storage < handling < service < serving

Each folder imports only the ones left of it; each has a head with its guarantees. The story of a batch,
from delivery to ack, begins in :mod:`towpath.servicekit.handling.dispatcher`.

Errors::

    CannotStart                 the program ends with a status of its kind; a restart would not help
    ├── BadSetting              a setting cannot be used; the text names it and the remedy
    │   └── NewerSchema         a newer release has changed the schema so that this one cannot work on it
    ├── BadService              the definition of a service is invalid
    ├── BadEntryPoint           an entry point of towpath.services does not lead to a service
    ├── MissingMigration        the code declares a table or column that the database does not have
    ├── BadMark                 compatible_from of a migration names no revision
    ├── BrokerRefused           user, password, virtual host or a permission (also a BrokerError)
    └── TopologyMismatch        a queue or exchange exists with other arguments (also a BrokerError)
    BrokerError                 a publish or a declaration failed
    ├── Unroutable              no queue is bound to the key of a mandatory message
    ├── PublishRefused          a queue is full
    ├── Unpublishable           the broker will never accept this message
    ├── PublishUnconfirmed      the outcome is unknown: no confirm in time
    ├── BrokerUnavailable       no connection; nothing was sent
    └── BrokerBlocked           memory or disk alarm; nothing was sent
    NoOutbox                    a timer publishes, but the service's storage has no outbox
    NoEffects                   an outcome declares an effect, and the service has no table of effects
    UnknownEffect               an outcome declares an effect that Service.effects does not name
    EffectRefused               raised by a call to the outside: another attempt would not help

A handler refuses a request with a :class:`towpath.protocol.errors.TowpathError`.

Each name is imported when it is first used: a gateway does not pay for SQLAlchemy (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from towpath.servicekit.broker import Connect, connect
    from towpath.servicekit.broker.interface import (
        BrokerBlocked,
        BrokerError,
        BrokerRefused,
        BrokerUnavailable,
        PublishRefused,
        PublishUnconfirmed,
        TopologyMismatch,
        Unpublishable,
        Unroutable,
    )
    from towpath.servicekit.handling.checks import BadService
    from towpath.servicekit.handling.effects import (
        EffectCall,
        EffectHandler,
        EffectParked,
        EffectRefused,
        NoEffects,
        UnknownEffect,
    )
    from towpath.servicekit.handling.outcome import (
        Effect,
        Outcome,
        Push,
        resumed,
        to_everyone,
        to_group,
        to_user,
    )
    from towpath.servicekit.handling.requests import Handler, Handlers, Request
    from towpath.servicekit.handling.store import Storage, UnitOfWork
    from towpath.servicekit.handling.timers import NoOutbox, Timer, TimerRun
    from towpath.servicekit.installed import BadEntryPoint
    from towpath.servicekit.runtime.buckets import Buckets, Rate
    from towpath.servicekit.runtime.run import run
    from towpath.servicekit.runtime.settings import (
        BadSetting,
        CannotStart,
        DatabaseUrl,
        Port,
        Seconds,
        ServiceSettings,
    )
    from towpath.servicekit.service import Service
    from towpath.servicekit.serving import serve_domain
    from towpath.servicekit.storage import bulk
    from towpath.servicekit.storage.database import Database
    from towpath.servicekit.storage.declared_tables import MissingMigration
    from towpath.servicekit.storage.group_numbers import Groups
    from towpath.servicekit.storage.kit_tables import KitTables
    from towpath.servicekit.storage.leaves import Leave
    from towpath.servicekit.storage.newer_schema import BadMark, NewerSchema
    from towpath.servicekit.storage.outbox import OutboxTables
    from towpath.servicekit.storage.streams import Replay, Streams, StreamTables, batched, read_heads
    from towpath.servicekit.storage.withheld import EntryId, Fields, Hidden

__all__ = [
    "BadEntryPoint",
    "BadMark",
    "BadService",
    "BadSetting",
    "BrokerBlocked",
    "BrokerError",
    "BrokerRefused",
    "BrokerUnavailable",
    "Buckets",
    "CannotStart",
    "Connect",
    "Database",
    "DatabaseUrl",
    "Effect",
    "EffectCall",
    "EffectHandler",
    "EffectParked",
    "EffectRefused",
    "EntryId",
    "Fields",
    "Groups",
    "Handler",
    "Handlers",
    "Hidden",
    "KitTables",
    "Leave",
    "MissingMigration",
    "NewerSchema",
    "NoEffects",
    "NoOutbox",
    "OutboxTables",
    "Outcome",
    "Port",
    "PublishRefused",
    "PublishUnconfirmed",
    "Push",
    "Rate",
    "Replay",
    "Request",
    "Seconds",
    "Service",
    "ServiceSettings",
    "Storage",
    "StreamTables",
    "Streams",
    "Timer",
    "TimerRun",
    "TopologyMismatch",
    "UnitOfWork",
    "UnknownEffect",
    "Unpublishable",
    "Unroutable",
    "batched",
    "bulk",
    "connect",
    "read_heads",
    "resumed",
    "run",
    "serve_domain",
    "to_everyone",
    "to_group",
    "to_user",
]

#: Where each name is defined; a test compares it with ``__all__`` and the imports above.
_MODULES: Final = {
    "broker": ("Connect", "connect"),
    "broker.interface": (
        "BrokerBlocked",
        "BrokerError",
        "BrokerRefused",
        "BrokerUnavailable",
        "PublishRefused",
        "PublishUnconfirmed",
        "TopologyMismatch",
        "Unpublishable",
        "Unroutable",
    ),
    "handling.checks": ("BadService",),
    "handling.effects": (
        "EffectCall",
        "EffectHandler",
        "EffectParked",
        "EffectRefused",
        "NoEffects",
        "UnknownEffect",
    ),
    "handling.outcome": ("Effect", "Outcome", "Push", "resumed", "to_everyone", "to_group", "to_user"),
    "handling.requests": ("Handler", "Handlers", "Request"),
    "handling.store": ("Storage", "UnitOfWork"),
    "handling.timers": ("NoOutbox", "Timer", "TimerRun"),
    "installed": ("BadEntryPoint",),
    "runtime.buckets": ("Buckets", "Rate"),
    "runtime.run": ("run",),
    "runtime.settings": ("BadSetting", "CannotStart", "DatabaseUrl", "Port", "Seconds", "ServiceSettings"),
    "service": ("Service",),
    "serving": ("serve_domain",),
    "storage": ("bulk",),
    "storage.database": ("Database",),
    "storage.declared_tables": ("MissingMigration",),
    "storage.group_numbers": ("Groups",),
    "storage.kit_tables": ("KitTables",),
    "storage.leaves": ("Leave",),
    "storage.newer_schema": ("BadMark", "NewerSchema"),
    "storage.outbox": ("OutboxTables",),
    "storage.streams": ("Replay", "StreamTables", "Streams", "batched", "read_heads"),
    "storage.withheld": ("EntryId", "Fields", "Hidden"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if (module := _MODULE_OF.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{module}")
    # A whole module (``bulk``) is a name, too.
    found = getattr(home, name) if hasattr(home, name) else import_module(f"{home.__name__}.{name}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
