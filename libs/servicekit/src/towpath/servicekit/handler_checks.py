"""Handler checks: a handler that cannot work is found when its service starts, and not by the people who ask it."""

import inspect
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

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
        if wrong:
            raise BadService(f"the handler of {action!r} in the service {service!r} {wrong}")
