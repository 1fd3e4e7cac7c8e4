"""RabbitMQ over TLS: a private authority, a certificate of our own, and a refusal in one line."""

import asyncio
import re
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from yarl import URL

from towpath.servicekit.broker import connect
from towpath.servicekit.broker.interface import BrokerRefused
from towpath.servicekit.broker.rabbitmq.connection import LOST, Connection
from towpath.servicekit.broker.rabbitmq.refusals import Untrusted, is_refusal
from towpath.servicekit.runtime.amqp_url import with_files
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings
from towpath.testkit.certificates import Authority, Issued
from towpath.testkit.processes import Processes, free_port
from towpath.tools.rabbitmq_node import RabbitNode

PATIENCE: Final = 60.0


class TlsBroker:
    """A RabbitMQ with two TLS ports.

    Attributes:
        url: Of the port that asks for no certificate.
        certified_url: Of the port that needs a certificate of the authority.
    """

    def __init__(self, node: RabbitNode, authority: Authority, own: Issued) -> None:
        self._node = node
        self._options = (
            f'{{cacertfile,"{authority.ca}"}},{{certfile,"{own.certificate}"}},{{keyfile,"{own.key}"}}'
        )
        node.evaluate("rabbit_networking:ensure_ssl()")
        self.url = self._listen("{verify,verify_none}")
        # https://www.rabbitmq.com/docs/ssl#peer-verification: ssl_options.verify, ssl_options.fail_if_no_peer_cert
        self.certified_url = self._listen("{verify,verify_peer},{fail_if_no_peer_cert,true}")

    def _listen(self, verification: str) -> str:
        port = free_port()
        address = f'{{"127.0.0.1",{port},inet}}'
        self._node.evaluate(
            f"rabbit_networking:start_ssl_listener({address}, [{self._options},{verification}], 1)"
        )
        return str(URL(self._node.url()).with_scheme("amqps").with_host("localhost").with_port(port))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def broker(authority: Authority) -> Iterator[TlsBroker]:
    node = RabbitNode()
    node.boot()
    try:
        yield TlsBroker(node, authority, authority.issue("localhost"))
    finally:
        node.halt()


async def reach(url: str, **settings: Any) -> None:
    chosen = BrokerSettings(amqp_url=url, **settings)
    async with asyncio.timeout(PATIENCE), connect(chosen, "tls") as broker:
        await broker.until_ready()


async def refusal(url: str, **settings: Any) -> str:
    with pytest.raises(BrokerRefused) as refused:
        await reach(url, **settings)
    told = str(refused.value)
    assert told.startswith(f"TOWPATH_AMQP_URL: no TLS connection to RabbitMQ at amqps://{URL(url).host}:")
    assert "\n" not in told
    assert str(URL(url).password) not in told
    return told


async def test_a_broker_of_the_named_authority_is_trusted(broker: TlsBroker, authority: Authority) -> None:
    await reach(broker.url, amqp_ca=authority.ca)
    await reach(f"{broker.url}?cafile={authority.ca}")


async def test_a_broker_of_another_authority_is_refused(broker: TlsBroker, tmp_path: Path) -> None:
    another = Authority(tmp_path, "another")
    assert "its certificate is not trusted: " in await refusal(broker.url, amqp_ca=another.ca)
    assert "its certificate is not trusted: " in await refusal(broker.url)


async def test_a_broker_with_a_certificate_for_another_name_is_refused(
    broker: TlsBroker, authority: Authority
) -> None:
    by_address = str(URL(broker.url).with_host("127.0.0.1"))
    told = await refusal(by_address, amqp_ca=authority.ca)
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in told


async def test_a_certificate_of_our_own_is_presented(broker: TlsBroker, authority: Authority) -> None:
    own = authority.issue("client@example.org")
    await reach(
        broker.certified_url, amqp_ca=authority.ca, amqp_certificate=own.certificate, amqp_key=own.key
    )


async def test_without_the_certificate_that_the_broker_asks_for_no_connection_is_made(
    broker: TlsBroker, authority: Authority, tmp_path: Path
) -> None:
    strange = Authority(tmp_path, "another").issue("client@example.org")
    for certificate, key in ((None, None), (strange.certificate, strange.key)):
        url = with_files(broker.certified_url, ca=authority.ca, certificate=certificate, key=key)
        for _ in range(3):
            # RabbitMQ's alert, or a reset that overtakes it.
            with pytest.raises(LOST):
                await Connection.open(URL(url), "tls")


def test_an_alert_about_our_certificate_is_a_refusal_and_is_found_in_a_circle_of_causes() -> None:
    alert = ssl.SSLError(1, "alert")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    outer = ConnectionError("lost")
    outer.__cause__, alert.__context__ = alert, outer
    untrusted = Untrusted.within(outer)
    assert (
        str(untrusted) == "it does not accept this program's certificate: TLSV13_ALERT_CERTIFICATE_REQUIRED"
    )
    assert untrusted is not None
    assert is_refusal(untrusted)


def test_an_outage_is_not_a_refusal_also_if_its_causes_are_a_circle() -> None:
    one, other = ConnectionError("reset"), ConnectionError("reset")
    one.__cause__, other.__context__ = other, one
    assert Untrusted.within(one) is None


@pytest.mark.parametrize("name", ["amqp_ca", "amqp_certificate", "amqp_key"])
async def test_certificates_for_an_unencrypted_address_are_refused(name: str, authority: Authority) -> None:
    with pytest.raises(
        BadSetting, match=r"^TOWPATH_AMQP_URL: is not encrypted, but certificates are set: use"
    ):
        await reach("amqp://ana:hunter2@localhost/", **{name: authority.ca})


async def test_certificate_files_are_named_in_one_place(authority: Authority) -> None:
    url = f"amqps://localhost/?cafile={authority.ca}"
    with pytest.raises(BadSetting, match="and so do settings of their own"):
        connect(BrokerSettings(amqp_url=url, amqp_ca=authority.ca), "tls")


async def test_a_file_that_cannot_be_read_is_named_at_the_start(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    with pytest.raises(BadSetting, match=re.escape(f"TOWPATH_AMQP_CA='{gone}': is not a file")):
        connect(BrokerSettings(amqp_url="amqps://localhost/", amqp_ca=gone), "tls")


async def test_a_replaced_authority_takes_effect_with_the_next_connection(
    broker: TlsBroker, authority: Authority, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    shutil.copy(Authority(tmp_path, "another").ca, ca)
    with pytest.raises(BrokerRefused):
        await reach(broker.url, amqp_ca=str(ca))
    shutil.copy(authority.ca, ca)
    await reach(broker.url, amqp_ca=str(ca))


@pytest.mark.parametrize("program", ["towpath-gateway", "towpath-chat"])
async def test_a_program_whose_broker_is_not_trusted_ends_with_one_line(
    broker: TlsBroker, processes: Processes, program: str, tmp_path: Path
) -> None:
    process = processes.launch(
        program,
        amqp_url=broker.url,
        amqp_ca=Authority(tmp_path, "another").ca,
        database_url=f"sqlite:///{tmp_path}/towpath.db",
        auth_secret="x1y2z3" * 8,
        port=free_port(),
    )
    assert await process.ended(timeout=60) == ExitStatus.REFUSED
    (line,) = [line for line in process.output.splitlines() if not line.startswith("{")]
    assert line.startswith(
        f"{program}: TOWPATH_AMQP_URL: no TLS connection to RabbitMQ at amqps://localhost:"
    )
