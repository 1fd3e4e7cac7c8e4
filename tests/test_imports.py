"""A program imports what it needs: each library costs its start, and each start after a crash."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("program", ["gateway", "ingress"])
def test_a_program_without_a_database_starts_without_its_library(program: str) -> None:
    source = f"import sys, towpath.{program}.__main__; print('sqlalchemy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", source], text=True) == "False\n"
