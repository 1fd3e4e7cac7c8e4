"""Fixtures of the gateway's tests."""

from collections.abc import AsyncIterator

import pytest

from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend, a_gateway


@pytest.fixture
def run_gateway() -> RunGateway:
    """Runs a gateway with settings of the test's choice."""
    return a_gateway


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    """A gateway with the defaults."""
    async with a_gateway() as gateway:
        yield gateway


@pytest.fixture
async def backend(gateway: GatewayUnderTest) -> AsyncIterator[Backend]:
    """The far side of ``gateway``'s broker."""
    async with a_backend(gateway.hub) as backend:
        yield backend
