"""Handler checks: an invalid handler is found when its service starts, not by the first request."""

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from towpath.protocol.routes import SESSION_STARTED
from towpath.servicekit.outcome import Outcome
from towpath.servicekit.ownership import BadService
from towpath.servicekit.requests import Handlers


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
        wrong = ""
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            wrong = f"has {model!r} as its model, which is not a pydantic model"
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


def check_greeting(service: str, events: Handlers) -> None:
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
