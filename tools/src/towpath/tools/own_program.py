"""``python -m towpath.tools.own_program MODULE SERVICE FOLDER``: a service of ``towpath dev --with``.

It lives and ends as :mod:`towpath.tools.lifeline` describes. The service needs no entry point and no ``__main__``:
its module has one :class:`~towpath.servicekit.Service`, or the one that is named. If the module has ``serve``, that
runs it, with the settings model that ``serve`` is annotated with.

Guarantee: what keeps it from starting is the last line of its output: file, line and error.
"""

import asyncio
import importlib
import sys
import traceback
import typing
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from towpath.servicekit import Service, ServiceSettings, run, serve_domain
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.tools import lifeline

Serve = Callable[[Any, asyncio.Event], Awaitable[None]]


class NoService(Exception):
    """The module does not define the service; the text gives the remedy."""


def main(module: str, attribute: str, folder: str) -> NoReturn:
    if folder:
        sys.path.insert(0, folder)
    try:
        loaded = importlib.import_module(module)
        service = _service(loaded, attribute)
    except Exception as error:
        sys.stderr.write(f"{_located(error)}\n")
        sys.exit(ExitStatus.BAD_SERVICE)
    if not lifeline.begin():
        sys.exit(0)
    serve, settings = _serve(loaded, service)
    sys.argv[1:] = []
    run(service.name, serve, settings)


def _service(module: ModuleType, attribute: str) -> Service[Any]:
    if attribute:
        named = getattr(module, attribute, None)
        if isinstance(named, Service):
            return named
        raise NoService(f"{module.__name__} has no Service named {attribute}")
    found = {id(value): value for value in vars(module).values() if isinstance(value, Service)}
    if len(found) == 1:
        return found.popitem()[1]
    several = "several; name one" if found else "none; name the module that does"
    raise NoService(
        f"{module.__name__} must define one Service, and defines {several}: --with module:SERVICE"
    )


def _serve(module: ModuleType, service: Service[Any]) -> tuple[Serve, type[ServiceSettings]]:
    """How the service is run, and the model of its settings."""

    async def serve(settings: ServiceSettings, stop: asyncio.Event) -> None:
        await serve_domain(service, settings, stop)

    own = getattr(module, "serve", None)
    if not callable(own):
        return serve, ServiceSettings
    try:
        hints = typing.get_type_hints(own)
    except Exception:  # an annotation that exists for type checkers only
        hints = {}
    models = [hint for hint in hints.values() if isinstance(hint, type) and issubclass(hint, ServiceSettings)]
    return own, models[0] if models else ServiceSettings


def _located(error: Exception) -> str:
    """The error and its place in the service's source, in one line."""
    said = " ".join(str(error).split())
    if isinstance(error, NoService):
        return said
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    kit = Path(__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen ")
        and Path(frame.filename).parent != kit
        and "importlib" not in Path(frame.filename).parts
    ]
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {said}"


if __name__ == "__main__":
    main(*sys.argv[1:4])
