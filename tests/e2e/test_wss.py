"""Both client SDKs over TLS, to a gateway with a certificate of a private authority."""

from pathlib import Path

import pytest

from towpath.testkit.certificates import Authority
from towpath.testkit.client_process import ClientProcess
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import SECRET, a_token


@pytest.mark.parametrize("language", ["javascript", "python"])
async def test_a_client_connects_over_tls_if_it_trusts_the_authority(
    drivers: dict[str, list[str]], language: str, rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("localhost")
    gateway = await processes.start(
        "towpath-gateway",
        amqp_url=rabbitmq.url,
        auth_secret=SECRET,
        development=1,
        port=free_port(),
        tls_certificate=own.certificate,
        tls_key=own.key,
    )
    url = f"wss://localhost:{gateway.settings['TOWPATH_PORT']}/ws"
    # OpenSSL's variable for Python, and Node's own.
    trust = ["env", f"SSL_CERT_FILE={authority.ca}", f"NODE_EXTRA_CA_CERTS={authority.ca}"]
    async with ClientProcess.start([*trust, *drivers[language]], token=lambda: a_token("ana")) as client:
        await client.connect([url])
        await client.opened()
    async with ClientProcess.start(drivers[language], token=lambda: a_token("ana")) as stranger:
        await stranger.connect([url])
        assert (await stranger.event("retry"))["code"] == 1006
        assert not stranger.told("opened")
