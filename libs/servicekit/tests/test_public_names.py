"""The public names of the kit: each exists, and a program pays only for those it uses."""

import subprocess
import sys
from typing import Final

import pytest

from towpath import servicekit

#: Libraries that take most of the import time of a service, and that no gateway needs.
HEAVY: Final = ("sqlalchemy", "alembic", "opentelemetry.sdk", "aio_pika")


@pytest.mark.parametrize("name", servicekit.__all__)
def test_each_public_name_exists(name: str) -> None:
    assert getattr(servicekit, name) is not None
    assert name in dir(servicekit)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Servise'"):
        _ = servicekit.Servise


def test_the_table_of_modules_names_all_public_names() -> None:
    named = [name for names in servicekit._MODULES.values() for name in names]
    assert sorted(named) == sorted(servicekit.__all__)


def test_importing_the_kit_loads_no_library_of_a_service() -> None:
    code = "import sys, towpath.servicekit; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {*HEAVY} & {*loaded.split()}
