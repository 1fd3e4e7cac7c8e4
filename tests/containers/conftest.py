"""The containers, for real: ``make containers`` builds the image and brings docker-compose.yml up on an engine.

Plain ``pytest`` leaves these tests out: they need an engine, and the image takes minutes. Without an engine
``make containers`` fails and says so; it never skips.
"""

import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from .compose import Compose, ComposeFailed, build_image, remove_image

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("containers").addoption(
        "--containers", action="store_true", help="run the tests that need a container engine"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.timeout(1200))  # An image may have to be built first.
    if ours and not config.getoption("containers", default=False):
        config.hook.pytest_deselected(items=ours)
        gone = set(ours)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The name of the image, built from this folder."""
    name = f"towpath-test:{secrets.token_hex(4)}"
    try:
        build_image(name)
    except ComposeFailed as failed:
        pytest.fail(str(failed), pytrace=False)
    yield name
    remove_image(name)


@pytest.fixture(scope="session")
def compose(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """All of docker-compose.yml, up and healthy, on free ports; taken down at the end."""
    with Compose(image, tmp_path_factory.mktemp("compose")) as compose:
        compose.up()
        yield compose


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the containers of a failed test printed."""
    report = yield
    compose: Compose | None = getattr(item, "funcargs", {}).get("compose")
    if report.failed and compose is not None:
        report.sections.append(("Output of the containers", compose.logs()))
    return report
