"""Tests in several processes at once: ``pytest -n auto``, which is how ``make test`` runs all of them.

Guarantees:

* The tests of one file run in one process, in their order: what they share is started once.
* A process has a RabbitMQ and a PostgreSQL of its own, so a test may stop them. Ports are claimed for one
  process, see :func:`~towpath.testkit.processes.free_port`.
* Files that write to the same folder of the repository share a process, so they never run at once.

https://pytest-xdist.readthedocs.io/en/stable/distribution.html
"""

from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

#: ``npm pack`` removes ``clients/js/dist`` and builds it again.
_BUILD_THE_CLIENT: Final = frozenset(
    {
        "tests/test_client_docs.py",
        "tests/test_javascript.py",
        "tests/test_own_service_tutorial.py",
        "tests/test_tutorial.py",
    }
)
#: Files that take a minute: whole systems of processes. They begin first, else one would be left when all
#: other processes have nothing to do.
_LONG: Final = ("tests/", "bench/", "tools/", "clients/")


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist declares no types
    """Hands out files, those in :data:`_LONG` first."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        # Else the file with the most tests is first, which are the quick ones.
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "clients/js/dist" if file in _BUILD_THE_CLIENT else file


class Parallel:
    """The plugin's part, registered where ``-n`` is given."""

    @pytest.hookimpl
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Producer) -> FileScheduling:
        return FileScheduling(config, log)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # In each process, since all of them must collect the same tests in the same order.
        items.sort(key=lambda item: not item.nodeid.startswith(_LONG))
