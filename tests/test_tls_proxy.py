"""HAProxy with the lines of docs/operations/tls.md: TLS for clients, and TLS again to the gateways."""

import re
import ssl
from pathlib import Path
from typing import Final

import pytest

from towpath.testkit.certificates import Authority
from towpath.testkit.client import WireClient
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, a_token
from towpath.tools.packages import Program, find_or_install

ROOT: Final = Path(__file__).parent.parent
HAPROXY: Final = Program("HAProxy", "haproxy", ("/usr/sbin/haproxy", "haproxy"))


def configuration(replaced: dict[str, str]) -> str:
    """``deploy/haproxy.cfg`` with the page's two lines in it; ``replaced`` gives paths and ports of the test."""
    page = (ROOT / "docs/operations/tls.md").read_text()
    written = (ROOT / "deploy/haproxy.cfg").read_text()
    (bind,) = re.findall(r"^ +(bind :443 ssl .*)$", page, re.M)
    (server,) = re.findall(r"^ +(server gateway-1 .* ssl .*)$", page, re.M)
    replaced = {
        "    bind :8080\n": f"    {bind}\n",
        "    server gateway-1 gateway-1:8080 port 9090\n": f"    {server}\n",
        **replaced,
    }
    for old, new in replaced.items():
        assert old in written, old
        written = written.replace(old, new)
    return written


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "another authority"])
async def test_a_client_reaches_a_gateway_through_a_proxy_that_trusts_it(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path, trusted: bool
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("gateway-1")
    gateway = await processes.start(
        "towpath-gateway",
        amqp_url=rabbitmq.url,
        port=free_port(),
        tls_certificate=own.certificate,
        tls_key=own.key,
        trusted_proxies="127.0.0.1",
        timeout=60,
        **AUTH_SETTINGS,
    )
    site = authority.issue("localhost")
    certificates = tmp_path / "certs"
    certificates.mkdir()
    parts = (Path(path).read_text() for path in (site.certificate, site.key))  # noqa: ASYNC240
    (certificates / "site.pem").write_text("".join(parts))
    port, admin_port = free_port(), free_port()
    text = configuration(
        {
            "bind :443 ssl": f"bind 127.0.0.1:{port} ssl",
            "bind :8000": f"bind 127.0.0.1:{free_port()}",
            "bind :9090": f"bind 127.0.0.1:{admin_port}",
            "/etc/haproxy/certs/": f"{certificates}/",
            "/etc/haproxy/authority.pem": authority.ca if trusted else Authority(tmp_path, "another").ca,
            "gateway-1:8080": f"127.0.0.1:{gateway.settings['TOWPATH_PORT']}",
            "check port 9090": f"check port {gateway.settings['TOWPATH_ADMIN_PORT']}",
        }
    )
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    proxy = find_or_install(HAPROXY)
    await processes.start(str(proxy), "-db", "-f", str(path), name="haproxy", admin_port=admin_port)
    connecting = WireClient.connect(
        f"wss://localhost:{port}/ws",
        token=a_token("ana"),
        ssl=ssl.create_default_context(cafile=authority.ca),
    )
    if trusted:
        async with connecting as ana:
            await ana.next("session.welcome")
    else:
        with pytest.raises(Exception, match="HTTP 503"):
            async with connecting:
                pass
