"""The public names of the testkit: each exists, and a test run pays only for those it uses."""

import pkgutil
import subprocess
import sys
from typing import Final

import pytest

from towpath import testkit

#: Libraries and packages that take most of the import time, or that an extra brings.
HEAVY: Final = (
    "aiohttp",
    "hypothesis",
    "playwright",
    "sqlalchemy",
    "testcontainers",
    "towpath.gateway",
    "towpath.servicekit",
    "towpath.tools",
    "trustme",
    "websockets",
    "xdist",
)


@pytest.mark.parametrize("name", testkit.__all__)
def test_each_public_name_exists(name: str) -> None:
    found = getattr(testkit, name)
    assert found.__name__ == name
    assert name in dir(testkit)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Stak'"):
        _ = testkit.Stak


def test_the_table_of_modules_names_all_public_names() -> None:
    named = [name for names in testkit._MODULES.values() for name in names]
    assert sorted([*named, "eventually"]) == sorted(testkit.__all__)


def test_no_module_hides_a_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(testkit.__path__)}
    assert modules & {*testkit.__all__} == {"eventually"}  # which is imported with the package


def test_the_plugin_loads_nothing_that_a_run_may_not_need() -> None:
    code = "import sys, towpath.testkit.plugin; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {*HEAVY} & {*loaded.split()}


def test_the_public_names_load_no_business_service_and_nothing_of_an_extra() -> None:
    code = "import sys; from towpath.testkit import *; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    extras = {"playwright", "testcontainers", "trustme", "towpath.tools", "towpath.chat", "towpath.orders"}
    assert "towpath.gateway" in loaded.split()
    assert not extras & {*loaded.split()}
