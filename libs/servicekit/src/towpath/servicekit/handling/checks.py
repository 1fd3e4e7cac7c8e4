"""Checks at the start: an invalid service is found when it starts, not by its first request."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from towpath.protocol.envelope import ACTION_PATTERN
from towpath.protocol.routes import SESSION_STARTED
from towpath.servicekit.handling.effects import EffectHandlers, EffectParked, is_effect_name
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handlers
from towpath.servicekit.handling.store import Storage
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import CannotStart

#: Domains that gateways answer or refuse themselves; they are never routed to a service.
RESERVED: Final = frozenset({"session", "service"})

_DOMAIN: Final = re.compile(r"[a-z][a-z0-9_]*")
_ACTION: Final = re.compile(ACTION_PATTERN)


class BadService(CannotStart):
    """The definition of a service is invalid; the text gives the reason."""

    status = ExitStatus.BAD_SERVICE


def check_service_tables(
    name: str,
    domain: str,
    commands: Handlers,
    events: Handlers,
    storage: Storage[Any] | None,
    effects: EffectHandlers = MappingProxyType({}),
) -> None:
    """All checks of this module.

    Raises:
        BadService
    """
    check_domain(name, domain, commands)
    check_handlers(name, commands, arguments=("payload", "session", "unit of work"))
    check_handlers(name, events, arguments=("payload", "unit of work"))
    if storage is not None and storage.groups is not None:
        check_session_started_handler(name, events)
    if effects:
        check_effects(name, effects, storage)


def check_domain(service: str, domain: str, actions: Iterable[str]) -> None:
    """Check that all ``actions`` of a service can be routed to it.

    Raises:
        BadService
    """
    if not _DOMAIN.fullmatch(domain) or domain in RESERVED:
        raise BadService(f"the service {service!r} cannot own the domain {domain!r}: take another word")
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise BadService(
                f"the service {service!r} has an action {action!r}: not a valid name, use {domain}.verb"
            )
        if (named := action.partition(".")[0]) != domain:
            raise BadService(
                f"the service {service!r} owns the domain {domain!r} and would never be asked for its action "
                f"{action!r}: name it {domain}.{action.removeprefix(named).lstrip('.')}, or move it to the "
                f"service that owns {named!r}"
            )


def check_handlers(service: str, handlers: Handlers, *, arguments: Sequence[str]) -> None:
    """Check that each handler can be called and is annotated to return an ``Outcome``.

    Args:
        arguments: The names of the positional arguments it is called with, in order.

    Raises:
        BadService
    """
    for action, handler in handlers.items():
        run: Any = handler.run  # Any object: the table may never have been type-checked.
        model: Any = handler.model
        answer: Any = handler.answer
        wrong = ""
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            wrong = f"has {model!r} as its model, which is not a pydantic model"
        elif answer is not None and not (isinstance(answer, type) and issubclass(answer, BaseModel)):
            wrong = f"has {answer!r} as its answer, which is not a pydantic model"
        elif not callable(run):
            wrong = f"is {run!r}, which cannot be called"
        elif inspect.iscoroutinefunction(run) or inspect.iscoroutinefunction(type(run).__call__):
            wrong = "is async: handlers do no I/O, write a plain def"
        else:
            try:
                signature = inspect.signature(run)
                signature.bind(*arguments)
            except TypeError:
                wrong = f"does not take the arguments ({', '.join(arguments)})"
            except ValueError:  # A built-in without a signature.
                continue
            else:
                returns = signature.return_annotation
                if returns not in (signature.empty, Any, Outcome, "Any", "Outcome"):
                    wrong = f"is annotated to return {returns!r}: it must return an Outcome"
        if handler.groups and handler.changes:
            wrong = "returns the groups of a connection (groups=True) and changes state: split it"
        if wrong:
            raise BadService(f"the handler of {action!r} in the service {service!r} {wrong}")


def check_published(service: str, messages: Mapping[str, Any]) -> None:
    """Check that each declared push or event has a valid name and a model.

    Raises:
        BadService
    """
    for action, model in messages.items():
        if not _ACTION.fullmatch(action):
            raise BadService(
                f"the service {service!r} declares {action!r}: not a valid name of a push or event, use domain.verb"
            )
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise BadService(
                f"the service {service!r} declares {action!r} with {model!r}, which is not a pydantic model"
            )


def check_session_started_handler(service: str, events: Handlers) -> None:
    """Check that a service with numbered groups answers each new connection with the groups of that connection.

    Gateways wait for this answer: until then they may have missed changes.

    Raises:
        BadService
    """
    greeting = events.get(SESSION_STARTED)
    if greeting is None or not greeting.groups:
        raise BadService(
            f"the service {service!r} keeps groups, and has no handler of {SESSION_STARTED!r} with groups=True"
        )


def check_effects(service: str, effects: EffectHandlers, storage: Storage[Any] | None) -> None:
    """Check that each effect can be stored and called, and that its result can be handled.

    Raises:
        BadService
    """
    if storage is None or storage.effects is None or storage.outbox is None:
        raise BadService(
            f"the service {service!r} has effects, and no tables for them: set effects=KIT.effects and "
            f"outbox=KIT.outbox in its Storage, where KIT is its KitTables"
        )
    for name, handler in effects.items():
        wrong = ""
        perform: Any = handler.perform
        model: Any = handler.model
        if not is_effect_name(name):
            wrong = "has not a valid name: use a word such as send_mail, 64 letters at most"
        elif not (isinstance(model, type) and issubclass(model, BaseModel)):
            wrong = f"has {model!r} as its model, which is not a pydantic model"
        elif not callable(perform):
            wrong = f"has {perform!r} as perform, which cannot be called"
        elif not _is_async(perform):
            wrong = "has a perform that is not async: it does I/O, write an async def"
        elif handler.parked is not None and handler.parked.model is not EffectParked:
            wrong = f"has a handler `parked` of {handler.parked.model!r}: its model is EffectParked"
        if wrong:
            raise BadService(f"the effect {name!r} of the service {service!r} {wrong}")
        ends = {"done": handler.done, "parked": handler.parked}
        handlers = {f"{name}.{end}": one for end, one in ends.items() if one is not None}
        check_handlers(service, handlers, arguments=("payload", "unit of work"))


def _is_async(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
