"""The image: small, labelled, and the same when it is built again."""

import json
import secrets
from typing import Final

import pytest

from .compose import build_image, docker, remove_image

_MOST_MIB: Final = 200
#: The content of every file, and whose it is; the engine writes the last three into each container.
_LISTING: Final = """
cd / && find . -xdev ! -type d ! -path './proc/*' ! -path './sys/*' ! -path './dev/*' ! -path './.dockerenv' \
    ! -path './etc/hosts' ! -path './etc/hostname' ! -path './etc/resolv.conf' \
    -printf '%m %u %g %p ' \\( -type f -exec sha256sum {} ';' -o -printf '-> %l\\n' \\) | sort -k 4
"""


@pytest.fixture(scope="module")
def facts(image: str) -> dict[str, object]:
    """The engine's description of the image."""
    known: dict[str, object] = json.loads(docker("image", "inspect", image))[0]
    return known


def test_it_is_small(facts: dict[str, int]) -> None:
    assert facts["Size"] / 2**20 < _MOST_MIB


def test_its_labels_name_it_its_version_and_its_source(facts: dict[str, dict[str, dict[str, str]]]) -> None:
    labels = facts["Config"]["Labels"]
    named = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert named["title"] == "Towpath"
    assert named["licenses"] == "Apache-2.0"
    assert named["version"]
    assert named["description"]


@pytest.mark.parametrize("program", ["towpath", "towpath-gateway", "towpath-chat", "towpath-ingress"])
def test_each_program_says_its_version(program: str, image: str) -> None:
    printed = docker("run", "--rm", "--read-only", "--network=none", image, program, "--version")
    assert printed.split()[-1][0].isdigit(), printed


def test_two_builds_have_the_same_files(image: str) -> None:
    another = f"towpath-test:{secrets.token_hex(4)}"
    build_image(another, "--no-cache")
    try:
        assert listing(another) == listing(image)
    finally:
        remove_image(another)


def listing(image: str) -> list[str]:
    """One line a file: its mode, owner, path and content."""
    lines = docker("run", "--rm", "--network=none", "--user=0", image, "sh", "-c", _LISTING).splitlines()
    assert len(lines) > 1_000
    return lines
