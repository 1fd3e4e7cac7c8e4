"""The JavaScript client and the page: their types, and their own tests, run by Node."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(600)  # a type check and a hundred starts of Node; a busy machine takes its time
@pytest.mark.parametrize("workspace", ["js", "web"])
def test_types_and_tests_in_node_pass(workspace: str) -> None:
    ran = subprocess.run(
        [ROOT / "scripts/test-js", workspace],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
        check=False,
    )
    if ran.returncode != 0:
        pytest.fail(ran.stdout, pytrace=False)
