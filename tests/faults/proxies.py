"""The proxies of deploy/, real programs with deploy's configuration, in front of gateways of a test."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from towpath.testkit.processes import Processes, free_port
from towpath.tools.packages import Program, find_or_install

_DEPLOY: Final = Path(__file__).parent.parent.parent / "deploy"
_HAPROXY: Final = Program("HAProxy", "haproxy", ("/usr/sbin/haproxy", "haproxy"))
_NGINX: Final = Program("nginx", "nginx-light", ("/usr/sbin/nginx", "nginx"))

#: A gateway's port, and that of its admin pages.
Ports = tuple[int, int]


async def _haproxy(processes: Processes, folder: Path, gateways: Sequence[Ports]) -> str:
    """Start HAProxy in front of ``gateways``, which need not run yet; returns where clients connect."""
    port, admin_port = free_port(), free_port()
    servers = "".join(
        f"    server gateway-{number} 127.0.0.1:{own} port {admin}\n"
        for number, (own, admin) in enumerate(gateways, 1)
    )
    text = (_DEPLOY / "haproxy.cfg").read_text()
    text, replaced = re.subn(r"(?m)(^ +server gateway-\d.*\n)+", servers, text)
    assert replaced == 1
    text = re.sub(r"(?m)^( +server (?:web|ingress)) .*$", r"\1 127.0.0.1:1", text)
    ours = {8080: port, 9090: admin_port}
    text = re.sub(
        r"(?m)^( +bind) :(\d+)$",
        lambda one: f"{one[1]} 127.0.0.1:{ours.get(int(one[2])) or free_port()}",
        text,
    )
    path = folder / "haproxy.cfg"
    path.write_text(text)
    await processes.start(
        str(find_or_install(_HAPROXY)), "-db", "-f", str(path), name="haproxy", admin_port=admin_port
    )
    return f"ws://127.0.0.1:{port}/ws"


async def _nginx(processes: Processes, folder: Path, gateways: Sequence[Ports]) -> str:
    """The same with nginx."""
    port, admin_port = free_port(), free_port()
    text = (_DEPLOY / "nginx.conf").read_text().replace("/run/nginx.pid", str(folder / "nginx.pid"))
    for place, inside in enumerate((8080, 9090)):
        declared = re.search(rf"server gateway-1:{inside}( .*)?;", text)
        assert declared, inside
        servers = "".join(
            f"        server 127.0.0.1:{ports[place]}{declared[1] or ''};\n" for ports in gateways
        )
        text, replaced = re.subn(rf"(?m)(^ +server gateway-\d:{inside} .*\n)+", servers, text)
        assert replaced == 1, inside
    text = re.sub(r"(?m)^( +server (?:web|ingress)):\d+", r"        server 127.0.0.1:1", text)
    ours = {8080: port, 9090: admin_port}
    text = re.sub(
        r"(?m)^( +listen) (\d+);$",
        lambda one: f"{one[1]} 127.0.0.1:{ours.get(int(one[2])) or free_port()};",
        text,
    )
    path = folder / "nginx.conf"
    path.write_text(text)
    await processes.start(
        str(find_or_install(_NGINX)),
        *("-c", str(path), "-p", str(folder), "-g", "daemon off;"),
        name="nginx",
        admin_port=admin_port,
    )
    return f"ws://127.0.0.1:{port}/ws"


#: How each proxy is started.
PROXIES: Final[Mapping[str, Callable[[Processes, Path, Sequence[Ports]], Awaitable[str]]]] = {
    "HAProxy": _haproxy,
    "nginx": _nginx,
}
