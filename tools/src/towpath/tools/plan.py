"""The plan of ``towpath dev``, checked before anything is started: settings, ports, folders."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from yarl import URL

from towpath.gateway.addresses import is_loopback
from towpath.gateway.settings import GatewaySettings
from towpath.ingress import keys
from towpath.servicekit.runtime.settings import (
    PREFIX,
    BadSetting,
    BrokerSettings,
    ServiceSettings,
    bad_setting,
    refuse_misspelt,
)
from towpath.tools.data_folder import DataFolder
from towpath.tools.own_target import BadTarget, Target, find, locate
from towpath.tools.parts import ENTRANCES, GATEWAY, INGRESS, Program, programs
from towpath.tools.ports import PortTaken, check_free, free_ports, hold
from towpath.tools.token import AUTH_SECRET
from towpath.tools.web import web_folder

HOST: Final = "127.0.0.1"
DATABASE_URL: Final = f"{PREFIX}DATABASE_URL"

_API_KEYS_FILE: Final = "api-keys.json"
_DEMO_KEY_FILE: Final = "api-key"
_DEMO_KEY_NAME: Final = "demo"
#: Health and metrics of the programs: on the next free ports from this one on.
_ADMIN_PORT: Final = "8081"
#: Shorter than in production: the user waits for it after Ctrl-C.
_DRAIN_SECONDS: Final = 10.0
_LAST_PORT: Final = 65535
S = TypeVar("S", bound=BrokerSettings)

_ORIGINS: Final = f"{PREFIX}ALLOWED_ORIGINS"


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module.

    Attributes:
        page, gateway, ingress: Addresses.
        api_key: Of the ingress, for all events and pushes; ``None`` with a file of keys of one's own.
        web_port: Where the page is served, on 127.0.0.1.
        secret: PresenceEvents and checks tokens.
        database: The displayed name of the database.
        web_root: The folder of the page.
        settings: Of each program, the gateway first; the broker is added once it runs.
        own: Likewise of each service of one's own.
        held: Keeps others off the ports of the programs; to be closed when these begin.
    """

    page: str
    gateway: str
    ingress: str
    api_key: str | None
    web_port: int
    secret: str
    database: str
    web_root: Path
    settings: Mapping[Program, BrokerSettings]
    own: Mapping[Target, ServiceSettings]
    held: ExitStack


def make_plan(
    folder: DataFolder, *, port: int, web_port: int, ingress_port: int, own: Sequence[str] = ()
) -> Plan:
    """The plan for the environment as it is.

    Args:
        ingress_port: The ingress takes the next free port from this one on.
        own: Services of one's own. If one is the source of an installed service, that is not started twice.

    Raises:
        BadSetting, BadEntryPoint, BadTarget, PortTaken, PageMissing
    """
    all_programs, targets = _with_targets(programs(), own)
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
    (ingress_port,) = _free_ports(
        1, "the ingress", first=ingress_port, but={port, web_port}, option="--ingress-port"
    )
    api_keys, api_key = _keys_in(folder)
    # Whatever TOWPATH_HOST says of the gateway: the key on the screen allows every event and push.
    of_ingress = {"host": HOST, "port": ingress_port, "api_keys": api_keys}
    of_program = {GATEWAY: of_gateway, INGRESS: of_ingress}
    settings: dict[Program, BrokerSettings] = {}
    admin_ports = iter(_admin_ports(len(all_programs) + len(targets), but={port, web_port, ingress_port}))
    for program in all_programs:
        its = of_program.get(program) or _database_of(program.name, folder)
        settings[program] = _checked(program.settings, {**its, **_shared(next(admin_ports))})
    settings_of_own: dict[Target, ServiceSettings] = {}
    for target in targets:
        # The name of the service is known to its process alone; settings of its own are checked there.
        its = _database_of("{service}", folder)
        settings_of_own[target] = _checked(ServiceSettings, {**its, **_shared(next(admin_ports))})
    gateway = settings[GATEWAY]
    assert isinstance(gateway, GatewaySettings)
    check_free(HOST, web_port, option="--web-port", program="the page")
    check_free(gateway.host, port, option="--port", program="the gateway")
    shown_host = HOST if gateway.host in ("0.0.0.0", "::", "") else gateway.host  # noqa: S104  # a comparison
    parts: list[BrokerSettings] = [*settings.values(), *settings_of_own.values()]
    of_all = [(part.admin_host, part.admin_port) for part in parts]
    return Plan(
        page=f"http://{HOST}:{web_port}",
        gateway=str(URL.build(scheme="ws", host=shown_host, port=port, path="/ws")),
        ingress=f"http://{HOST}:{ingress_port}/v1",
        api_key=api_key,
        web_port=web_port,
        secret=secret,
        database=database_label(given) if (given := os.environ.get(DATABASE_URL)) else f"SQLite in {folder}",
        web_root=web_folder(),
        settings=settings,
        own=settings_of_own,
        held=hold([*of_all, (gateway.host, port), (HOST, ingress_port)]),
    )


def _admin_ports(count: int, *, but: set[int]) -> list[int]:
    name = f"{PREFIX}ADMIN_PORT"
    given = os.environ.get(name, _ADMIN_PORT)
    if not (given.isdecimal() and 0 < int(given) <= _LAST_PORT):
        raise BadSetting(name, given, f"must be a port, from 1 to {_LAST_PORT}")
    return _free_ports(count, f"one of {count} programs", first=int(given), but=but, option=name)


def _free_ports(count: int, program: str, *, first: int, but: set[int], option: str) -> list[int]:
    try:
        return free_ports(count, first=first, but=but)
    except OSError as error:
        raise PortTaken(option, first, program, error) from None


def _keys_in(folder: DataFolder) -> tuple[str, str | None]:
    """The file of API keys, and the key in it that is shown: made once, for all events and pushes.

    Raises:
        BadSetting: The file that is kept cannot be used.
    """
    if given := os.environ.get(keys.SETTING):
        return given, None
    file, key = folder.path / _API_KEYS_FILE, folder.kept(_DEMO_KEY_FILE)
    try:
        if key is None or keys.Keys.read(file).find(key) is None:
            key = keys.make(file, _DEMO_KEY_NAME, ("*",), push=True)
            folder.keep(_DEMO_KEY_FILE, key)
    except keys.BadKeys as error:
        raise BadSetting(keys.SETTING, file, f"{error}; remove it, or name another file") from None
    return str(file), key


def _with_targets(
    installed: Sequence[Program], own: Sequence[str]
) -> tuple[Sequence[Program], Sequence[Target]]:
    """The installed programs to start, and the services of one's own, each under a name of its own."""
    files = {locate(f"{program.module}.app"): program for program in installed if own}
    targets: dict[str, Target] = {}
    replaced: list[Program] = []
    for given in own:
        target = find(given)
        if (program := files.get(target.file)) is not None and program not in ENTRANCES:
            replaced.append(program)
            target = Target(program.name, f"{program.module}.app", target.attribute, target.file, None)
        elif target.name in {program.name for program in installed}:
            raise BadTarget(given, f"Towpath has a program named {target.name}; rename the file or package")
        if target.name in targets:
            raise BadTarget(given, f"another service is named {target.name} as well; rename one of the two")
        targets[target.name] = target
    return [program for program in installed if program not in replaced], list(targets.values())


def _shared(admin_port: int) -> dict[str, Any]:
    limit = {} if f"{PREFIX}DRAIN_TIMEOUT" in os.environ else {"drain_timeout": _DRAIN_SECONDS}
    return {**limit, "admin_host": HOST, "admin_port": admin_port}


def _database_of(service: str, folder: DataFolder) -> dict[str, Any]:
    return {"database_url": os.environ.get(DATABASE_URL) or folder.database_url(service)}


def database_label(url: str) -> str:
    """The displayed name of a database, without the password."""
    if url.startswith("sqlite"):
        return f"SQLite, {url.partition(':///')[2]}"
    address = URL(url)
    return f"PostgreSQL at {address.host}:{address.port or 5432}{address.path}"


def _checked(model: type[S], given: Mapping[str, Any]) -> S:
    # The broker is chosen later; what TOWPATH_AMQP_URL holds is checked all the same, if it holds anything.
    blank = {"amqp_url": "memory://"} if not os.environ.get(f"{PREFIX}AMQP_URL") else {}
    try:
        return model(**{**given, **blank})
    except ValidationError as error:
        raise bad_setting(error, prefix=PREFIX) from None
