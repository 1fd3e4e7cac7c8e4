"""Tests of services: Towpath in memory in one process, builders, faults, and the delivery guarantees as checks.

::

    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana:
        answer = await ana.request("ledger.greet", {"name": "Ben"})

The names of this module are for all who write a service; the other modules are for this repository's own tests.
``towpath-testkit`` alone brings the gateway and the service kit, and no business service, browser or container; what
needs more is an extra: ``towpath-testkit[rabbitmq]``.

Each name is imported when it is first used (PEP 562): a test run pays only for those it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

# Not late like the others: a module of the same name would hide the function.
from towpath.testkit.eventually import eventually

if TYPE_CHECKING:
    from towpath.testkit.builders import Incoming, a_command, a_push, an_envelope, an_event
    from towpath.testkit.client import ConnectionEnded, WireClient
    from towpath.testkit.declared import Misfit
    from towpath.testkit.dispatching import Heard, ServiceUnderTest, counted_statements
    from towpath.testkit.faults import Faults, FaultyHub
    from towpath.testkit.guarantee import Guarantee, GuaranteeBroken, guarantees
    from towpath.testkit.ports import free_port
    from towpath.testkit.schema import schema_differences
    from towpath.testkit.stack import Stack
    from towpath.testkit.tokens import a_token
    from towpath.testkit.trials import Example

__all__ = [
    "ConnectionEnded",
    "Example",
    "Faults",
    "FaultyHub",
    "Guarantee",
    "GuaranteeBroken",
    "Heard",
    "Incoming",
    "Misfit",
    "ServiceUnderTest",
    "Stack",
    "WireClient",
    "a_command",
    "a_push",
    "a_token",
    "an_envelope",
    "an_event",
    "counted_statements",
    "eventually",
    "free_port",
    "guarantees",
    "schema_differences",
]

#: Where each name is defined; a test compares it with ``__all__``.
_MODULES: Final = {
    "builders": ("Incoming", "a_command", "a_push", "an_envelope", "an_event"),
    "client": ("ConnectionEnded", "WireClient"),
    "declared": ("Misfit",),
    "dispatching": ("Heard", "ServiceUnderTest", "counted_statements"),
    "faults": ("Faults", "FaultyHub"),
    "guarantee": ("Guarantee", "GuaranteeBroken", "guarantees"),
    "ports": ("free_port",),
    "schema": ("schema_differences",),
    "stack": ("Stack",),
    "tokens": ("a_token",),
    "trials": ("Example",),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if (module := _MODULE_OF.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
