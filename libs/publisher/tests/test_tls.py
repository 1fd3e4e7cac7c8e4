"""RabbitMQ over TLS: certificates are verified on both sides, and no option turns that off."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from towpath.publisher import BrokerRefused, ExchangeMissing, Publisher, PublisherError
from towpath.testkit.certificates import Authority
from towpath.testkit.processes import free_port
from towpath.tools.rabbitmq_node import RabbitNode


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def url(authority: Authority) -> Iterator[str]:
    """A RabbitMQ that needs a certificate of the authority."""
    node, own, port = RabbitNode(), authority.issue("localhost"), free_port()
    node.boot()
    try:
        options = (
            f'{{cacertfile,"{authority.ca}"}},{{certfile,"{own.certificate}"}},{{keyfile,"{own.key}"}},'
            "{verify,verify_peer},{fail_if_no_peer_cert,true}"
        )
        node.evaluate("rabbit_networking:ensure_ssl()")
        node.evaluate(f'rabbit_networking:start_ssl_listener({{"127.0.0.1",{port},inet}}, [{options}], 1)')
        yield str(URL(node.url()).with_scheme("amqps").with_host("localhost").with_port(port))
    finally:
        node.halt()


async def reach(url: str, **files: Any) -> None:
    """Publish; without Towpath on it, RabbitMQ answers that the exchange is missing."""
    async with Publisher(url, app_id="shop", connect_timeout=60, timeout=1, **files) as publisher:
        with pytest.raises(ExchangeMissing):
            await publisher.publish("order.paid", {})


async def test_both_sides_trust_certificates_of_the_named_authority(url: str, authority: Authority) -> None:
    own = authority.issue("shop@example.org")
    await reach(url, ca=authority.ca, certificate=own.certificate, key=own.key)


async def test_a_broker_of_another_authority_or_name_is_refused(
    url: str, authority: Authority, tmp_path: Path
) -> None:
    own, another = authority.issue("shop@example.org"), Authority(tmp_path, "another")
    files = {"certificate": own.certificate, "key": own.key}
    for ca in (another.ca, None):
        with pytest.raises(BrokerRefused, match="its certificate is not trusted"):
            await reach(url, ca=ca, **files)
    with pytest.raises(BrokerRefused, match=r"not valid for '127\.0\.0\.1'"):
        await reach(url.replace("localhost", "127.0.0.1"), ca=authority.ca, **files)


async def test_without_a_certificate_that_the_broker_accepts_there_is_no_connection(
    url: str, authority: Authority
) -> None:
    # RabbitMQ's alert, or a reset that overtakes it.
    with pytest.raises(PublisherError, match=r"no connection|does not accept"):
        async with Publisher(url, app_id="shop", connect_timeout=2, ca=authority.ca):
            pytest.fail("it was entered")


async def test_files_that_cannot_be_used_are_named(url: str, authority: Authority, tmp_path: Path) -> None:
    own = authority.issue("shop@example.org")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"ca": "/no/such.pem"}, r"'/no/such\.pem' is not a file"),
        ({"ca": str(text)}, "holds no certificate"),
        ({"ca": authority.ca, "certificate": own.certificate}, "needs its key"),
        ({"ca": authority.ca, "certificate": own.certificate, "key": str(text)}, "cannot be used with"),
    ]
    for files, problem in wrong:
        with pytest.raises(BrokerRefused, match=problem):
            async with Publisher(url, app_id="shop", connect_timeout=10, **files):
                pytest.fail("it was entered")
