"""The terminal output of ``towpath dev``: little, and nothing twice."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from towpath.tools.brokers import OpenBroker
from towpath.tools.data_folder import DataFolder
from towpath.tools.plan import Plan


class Screen:
    """A terminal, or another standard output; a closed one is ignored."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._status = self._console.status("")

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show that something goes on, until it is :meth:`ready`, or until exit."""
        self._work(what)
        try:
            yield
        finally:
            with _whoever_looks():
                self._status.stop()

    def ready(self, plan: Plan, broker: OpenBroker, folder: DataFolder) -> None:
        """Say that all is there, and where."""
        self._status.stop()
        print_ = self._console.print
        print_()
        for name, value in (
            ("Page", f"[bold cyan]{plan.page}[/]"),
            ("Gateway", plan.gateway),
            ("Ingress", plan.ingress),
            *((("API key", escape(plan.api_key)),) if plan.api_key is not None else ()),
            ("Broker", escape(f"{broker.label}, {broker.place}")),
            ("Database", escape(plan.database)),
            *(("Service", escape(f"{one.name}, from {_from_here(one.file)}")) for one in plan.own),
            ("Logs", escape(f"{folder}/logs")),
        ):
            print_(f"  [bold]{name:<10}[/]{value}")
        print_()
        if broker.hint:
            print_(f"  [yellow]{escape(broker.hint)}[/]")
        print_("  [green]Ready.[/] Ctrl-C stops all of it.")
        print_()

    def say(self, line: str) -> None:
        """Say something that happened meanwhile."""
        with _whoever_looks():
            self._console.print(escape(line))

    def stopping(self) -> None:
        """Say that it stops."""
        self._work("Stopping; Ctrl-C again stops at once")

    def stopped(self) -> None:
        """Say that nothing runs any more."""
        with _whoever_looks():
            self._console.print("Stopped; nothing is left running.")

    def stopped_at_once(self) -> None:
        """Say so, and leave the terminal as it was."""
        with _whoever_looks():
            self._status.stop()
            self._console.print("Stopped at once.")

    def _work(self, what: str) -> None:
        with _whoever_looks():
            self._status.update(escape(what))
            self._status.start()
            if not self._console.is_terminal:
                self._console.print(escape(what))


def _from_here(path: Path) -> str:
    return os.path.relpath(path)


def _whoever_looks() -> contextlib.suppress:
    # Closing the terminal ends this program by SIGHUP, and there is no output left to report it.
    return contextlib.suppress(OSError)
