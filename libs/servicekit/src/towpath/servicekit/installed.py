"""The installed services, found by entry points: no program keeps a list of them.

A service's ``pyproject.toml`` names its definition, in the group ``towpath.services``::

    [project.entry-points."towpath.services"]
    orders = "towpath.orders.app:ORDERS"

The key is the name of the :class:`~towpath.servicekit.Service`, the value its ``app`` module and the name there.
The package around ``app`` (``towpath.orders``) has three modules that others rely on:

* ``app`` with ``serve(settings, stop, connect)``;
* ``settings`` with one subclass of :class:`~towpath.servicekit.ServiceSettings`, if the service has settings of its
  own;
* ``__main__``, which runs the service as a program.

Guarantees: finding the services loads none of their code; they are in the order of their names. An invalid entry
point is a :class:`BadEntryPoint`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final

from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import CannotStart, ServiceSettings

if TYPE_CHECKING:
    from towpath.servicekit.service import Service

GROUP: Final = "towpath.services"


class BadEntryPoint(CannotStart):
    """An entry point of the group ``towpath.services`` does not lead to a service.

    Args:
        problem: The problem and the remedy.
    """

    status = ExitStatus.BAD_SERVICE

    def __init__(self, entry: EntryPoint, problem: str) -> None:
        super().__init__(f'the entry point {entry.name} = "{entry.value}" of {GROUP}: {problem}')


@dataclass(frozen=True, slots=True)
class InstalledService:
    """One service of this Python environment.

    Attributes:
        name: The name of the service.
        package: Its package, for example ``towpath.orders``; ``python -m`` with it runs the service.
    """

    name: str
    package: str
    _entry: EntryPoint

    def definition(self) -> "Service[Any]":
        """Load the service's definition, and with it all of its code.

        Raises:
            BadEntryPoint: There is none, or its name is another one.
        """
        try:
            service: Service[Any] = self._entry.load()
        except (ImportError, AttributeError) as error:
            raise BadEntryPoint(
                self._entry, f"{error}; correct it in the service's pyproject.toml"
            ) from error
        if getattr(service, "name", None) != self.name:
            raise BadEntryPoint(
                self._entry, f"is not the Service named {self.name!r}; give both the same name"
            )
        return service

    def settings(self) -> type[ServiceSettings]:
        """Load the model of its settings, and no other module of the service.

        Raises:
            BadEntryPoint: Its ``settings`` has none, or several.
        """
        name = f"{self.package}.settings"
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return ServiceSettings
            raise BadEntryPoint(self._entry, f"{error}; is the service installed as a whole?") from error
        models = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, ServiceSettings) and value.__module__ == name
        ]
        if len(models) != 1:
            raise BadEntryPoint(
                self._entry, f"{name} has {len(models)} subclasses of ServiceSettings; it must have one"
            )
        return models[0]


def installed_services() -> Sequence[InstalledService]:
    """All services of this Python environment, by name.

    Raises:
        BadEntryPoint: One is not of the form ``<package>.app:<definition>``, or two have the same name.
    """
    found: dict[str, InstalledService] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package, dot, module = entry.module.rpartition(".")
        if not (dot and module == "app" and entry.attr):
            raise BadEntryPoint(entry, 'write it as name = "<package>.app:<SERVICE>"')
        if entry.name in found:
            raise BadEntryPoint(
                entry, f"{found[entry.name].package} has the same name; uninstall one of them"
            )
        found[entry.name] = InstalledService(entry.name, package, entry)
    return list(found.values())
