"""Handler checks: a handler that cannot work is found when its service starts, and not by the people who ask it."""

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from towpath.protocol.routes import SESSION_STARTED
from towpath.servicekit.outcome import Outcome
from towpath.servicekit.ownership import BadService
from towpath.servicekit.requests import Handlers


def check_handlers(service: str, handlers: Handlers, *, arguments: Sequence[str]) -> None:
    """Make sure that each handler can be called, and says that it returns an outcome.

    Args:
        arguments: What it is called with, in this order.

    Raises:
        BadService
    """
    for action, handler in handlers.items():
        run: Any = handler.run  # whatever the table holds: a type checker may never have seen it
        model: Any = handler.model
        wrong = ""
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            wrong = f"has {model!r} as its model, which is no pydantic model"
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
            except ValueError:  # of a built-in, which does not say
                continue
            else:
                returns = signature.return_annotation
                if returns not in (signature.empty, Any, Outcome, "Any", "Outcome"):
                    wrong = f"says that it returns {returns!r}: it must return an Outcome"
        if handler.groups and handler.changes:
            wrong = "says in which groups a connection is (groups=True), and changes state: split it"
        if wrong:
            raise BadService(f"the handler of {action!r} in the service {service!r} {wrong}")


def check_greeting(service: str, events: Handlers) -> None:
    """Make sure that a service which numbers its changes of groups says of each new connection which are its groups.

    Gateways wait for that: until then they do not know what they have missed.

    Raises:
        BadService
    """
    greeting = events.get(SESSION_STARTED)
    if greeting is None or not greeting.groups:
        raise BadService(
            f"the service {service!r} keeps groups, and has no handler of {SESSION_STARTED!r} with groups=True"
        )
