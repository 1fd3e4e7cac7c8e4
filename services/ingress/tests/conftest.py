"""Fixtures of the ingress's tests."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from services.ingress.tests.running import Consumer, IngressUnderTest, RunIngress, a_consumer, an_ingress


@pytest.fixture
def run_ingress(tmp_path: Path) -> RunIngress:
    """Runs an ingress with settings of the test's choice."""
    return partial(an_ingress, tmp_path)


@pytest.fixture
async def ingress(run_ingress: RunIngress) -> AsyncIterator[IngressUnderTest]:
    """An ingress with the defaults."""
    async with run_ingress() as ingress:
        yield ingress


@pytest.fixture
async def consumer(ingress: IngressUnderTest) -> AsyncIterator[Consumer]:
    """The far side of ``ingress``'s broker."""
    async with a_consumer(ingress.hub) as consumer:
        yield consumer
