"""The plan of ``towpath dev``, checked before anything is started: settings, ports, folders."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from yarl import URL

from towpath.gateway.addresses import is_loopback
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.settings import (
    PREFIX,
    BadSetting,
    BrokerSettings,
    bad_setting,
    refuse_misspelt,
)
from towpath.tools.data_folder import DataFolder
from towpath.tools.parts import GATEWAY, Program, programs
from towpath.tools.ports import PortTaken, check_free, free_ports, hold
from towpath.tools.token import AUTH_SECRET
from towpath.tools.web import web_folder

HOST: Final = "127.0.0.1"
DATABASE_URL: Final = f"{PREFIX}DATABASE_URL"

#: Health and metrics of the programs: on the next free ports from this one on.
_ADMIN_PORT: Final = "8081"
#: Shorter than in production: the user waits for it after Ctrl-C.
_DRAIN_SECONDS: Final = 10.0
_LAST_PORT: Final = 65535
_ORIGINS: Final = f"{PREFIX}ALLOWED_ORIGINS"


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module.

    Attributes:
        page, gateway: Addresses.
        web_port: Where the page is served, on 127.0.0.1.
        secret: PresenceEvents and checks tokens.
        database: The displayed name of the database.
        web_root: The folder of the page.
        settings: Of each program, the gateway first; the broker is added once it runs.
        held: Keeps others off the ports of the programs; to be closed when these begin.
    """

    page: str
    gateway: str
    web_port: int
    secret: str
    database: str
    web_root: Path
    settings: Mapping[Program, BrokerSettings]
    held: ExitStack


def make_plan(folder: DataFolder, *, port: int, web_port: int) -> Plan:
    """The plan for the environment as it is.

    Raises:
        BadSetting, BadEntryPoint, PortTaken, PageMissing
    """
    all_programs = programs()
    refuse_misspelt({name for program in all_programs for name in program.settings.model_fields})
    if os.environ.get(f"{PREFIX}AUTH_PUBLIC_KEY"):
        raise BadSetting(
            f"{PREFIX}AUTH_PUBLIC_KEY", None, "`towpath dev` signs tokens itself, with a secret; unset it"
        )
    if port == web_port:
        raise BadSetting("--web-port", web_port, "is the gateway's port as well; choose another one")
    secret = os.environ.get(AUTH_SECRET) or folder.secret()
    origins = [os.environ.get(_ORIGINS, ""), *(f"http://{name}:{web_port}" for name in (HOST, "localhost"))]
    of_gateway = {
        "port": port,
        "auth_secret": secret,
        # Any secret will do while only this machine can connect.
        "development": is_loopback(os.environ.get(f"{PREFIX}HOST", HOST)),
        "allowed_origins": ",".join(filter(None, origins)),
    }
    settings: dict[Program, BrokerSettings] = {}
    admin_ports = _admin_ports(len(all_programs), but={port, web_port})
    for program, admin_port in zip(all_programs, admin_ports, strict=True):
        own = of_gateway if program == GATEWAY else _database_of(program.name, folder)
        settings[program] = _checked(
            program.settings, {**own, **_shared(), "admin_host": HOST, "admin_port": admin_port}
        )
    gateway = settings[GATEWAY]
    assert isinstance(gateway, GatewaySettings)
    check_free(HOST, web_port, option="--web-port", program="the page")
    check_free(gateway.host, port, option="--port", program="the gateway")
    shown_host = HOST if gateway.host in ("0.0.0.0", "::", "") else gateway.host  # noqa: S104  # a comparison
    of_all = [(part.admin_host, part.admin_port) for part in settings.values()]
    return Plan(
        page=f"http://{HOST}:{web_port}",
        gateway=str(URL.build(scheme="ws", host=shown_host, port=port, path="/ws")),
        web_port=web_port,
        secret=secret,
        database=database_label(given) if (given := os.environ.get(DATABASE_URL)) else f"SQLite in {folder}",
        web_root=web_folder(),
        settings=settings,
        held=hold([*of_all, (gateway.host, port)]),
    )


def _admin_ports(count: int, *, but: set[int]) -> list[int]:
    name = f"{PREFIX}ADMIN_PORT"
    given = os.environ.get(name, _ADMIN_PORT)
    if not (given.isdecimal() and 0 < int(given) <= _LAST_PORT):
        raise BadSetting(name, given, f"must be a port, from 1 to {_LAST_PORT}")
    try:
        return free_ports(count, first=int(given), but=but)
    except OSError as error:
        raise PortTaken(name, int(given), f"one of {count} programs", error) from None


def _shared() -> dict[str, Any]:
    return {} if f"{PREFIX}DRAIN_TIMEOUT" in os.environ else {"drain_timeout": _DRAIN_SECONDS}


def _database_of(service: str, folder: DataFolder) -> dict[str, Any]:
    return {"database_url": os.environ.get(DATABASE_URL) or folder.database_url(service)}


def database_label(url: str) -> str:
    """The displayed name of a database, without the password."""
    if url.startswith("sqlite"):
        return f"SQLite, {url.partition(':///')[2]}"
    address = URL(url)
    return f"PostgreSQL at {address.host}:{address.port or 5432}{address.path}"


def _checked(model: type[BrokerSettings], given: Mapping[str, Any]) -> BrokerSettings:
    # The broker is chosen later; what TOWPATH_AMQP_URL holds is checked all the same, if it holds anything.
    blank = {"amqp_url": "memory://"} if not os.environ.get(f"{PREFIX}AMQP_URL") else {}
    try:
        return model(**{**given, **blank})
    except ValidationError as error:
        raise bad_setting(error, prefix=PREFIX) from None
