"""A RabbitMQ cluster of three nodes loses nodes, or the links between them."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest

from towpath.gateway.forwarding.revoking import LOG
from towpath.testkit.cluster import Cluster
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import AUTH_SETTINGS

from .conftest import StartSystem
from .trial import Trial


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes."""
    async with Cluster.running() as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def reported(cluster: Cluster) -> AsyncIterator[None]:
    """Should it fail, the output has what the nodes say about their queues."""
    try:
        yield
    except AssertionError:
        print(await cluster.report())  # noqa: T201  # shown with a failed test
        raise


async def started_on(cluster: Cluster, start_system: StartSystem) -> System:
    """A system that knows all nodes."""
    return await start_system(Rabbit(cluster.nodes[0], "/", cluster.url()))


async def test_the_loss_of_the_leader_of_a_quorum_queue_delays_requests_for_a_moment(
    cluster: Cluster, start_system: StartSystem, trial: Trial
) -> None:
    system = await started_on(cluster, start_system)
    leader = await cluster.leader("chat.commands.0")
    fault = "quorum leader of three killed"
    async with reported(cluster), trial.of(fault, system, within=10):
        await cluster.kill(leader)
        trial.strike()
        await trial.recovers()


async def test_with_two_of_three_nodes_down_requests_wait_and_the_cluster_recovers(
    cluster: Cluster, start_system: StartSystem, trial: Trial
) -> None:
    system = await started_on(cluster, start_system)
    others = cluster.nodes[1:]
    fault = "two of three nodes down for 8 s"
    async with reported(cluster), trial.of(fault, system, within=25) as load:
        await cluster.kill(*others)
        done = len(load.journal.asked)
        await asyncio.sleep(8)
        # Requests that were in flight when they died may still be answered.
        assert len(load.journal.asked) - done <= len(load.people) + 1
        await cluster.boot(*others)
        trial.strike()
        await trial.recovers()


async def test_nodes_replaced_one_by_one_cause_short_delays_only(
    cluster: Cluster, start_system: StartSystem, trial: Trial
) -> None:
    system = await started_on(cluster, start_system)
    async with reported(cluster), trial.of("three nodes restarted one by one", system, within=20) as load:
        for node in cluster.nodes[::-1]:
            await load.flows(40, timeout=60)
            await cluster.kill(node)
            trial.strike()
            await trial.recovers()
            await cluster.boot(node)
        trial.strike()


@pytest.mark.parametrize("cut", ["minority", "pair"])
async def test_a_cut_between_nodes_loses_nothing_that_was_accepted(
    start_system: StartSystem, trial: Trial, cut: str
) -> None:
    fault = {
        "minority": "one of three nodes cut off for 20 s",
        "pair": "link between two of three nodes cut for 20 s",
    }[cut]
    if os.geteuid() != 0:
        trial.not_run(fault, "cutting links needs network namespaces, and those need root")
    async with Cluster.running(apart=True) as cluster:
        system = await started_on(cluster, start_system)
        one, two, three = cluster.nodes
        async with reported(cluster), trial.of(fault, system, within=30):
            cluster.cut([three], [one, two] if cut == "minority" else [one])
            await asyncio.sleep(20)
            cluster.heal()
            trial.strike()
            await trial.recovers()
            await cluster.whole(timeout=90)


async def test_gateways_read_the_stream_of_revocations_on_a_node_that_has_a_member_of_it(
    cluster: Cluster, start_system: StartSystem, processes: Processes
) -> None:
    await started_on(cluster, start_system)
    leader = await cluster.keep_on_leader(LOG.name)
    elsewhere = cluster.url(first=cluster.nodes.index(leader) + 1)
    # Each begins with a node by chance, so that of eight hardly each one finds the stream at once.
    late = [
        processes.launch("towpath-gateway", amqp_url=elsewhere, port=port, reconnect_max=1.0, **AUTH_SETTINGS)
        for port in (free_port() for _ in range(8))
    ]
    await asyncio.gather(*(gateway.ready(timeout=60) for gateway in late))
    assert any("log_unreadable" in gateway.output for gateway in late)
