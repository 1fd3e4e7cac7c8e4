"""``towpath doctor``: examines settings, the broker, the account, gateways and services, and names what to mend.

Guarantee: an examination changes nothing. It makes one exclusive queue, and publishes one question to gateways.
"""

import asyncio
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.text import Text

from towpath.servicekit.broker.interface import Broker, BrokerError, BrokerRefused, Unpublishable
from towpath.servicekit.installed import BadEntryPoint
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings
from towpath.tools.data_folder import DataFolder
from towpath.tools.operating import NoConnection, connected_to, greeting_of, settings_of
from towpath.tools.ops import admin, findings, screen, survey
from towpath.tools.ops.findings import Finding, Kind
from towpath.tools.ops.listening import Listening
from towpath.tools.ops.screen import plain
from towpath.tools.trouble import Interrupted

_SETUP: Final = "`towpath broker setup`, then `towpath broker setup --check`"


@dataclass(slots=True)
class Examination:
    """The findings, and how far it got.

    Attributes:
        facts: The parts that work, for the line at the end.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def doctor(
    services: Sequence[str],
    pages: Sequence[str],
    *,
    as_json: bool,
    data: Path,
    environment: Mapping[str, str] = os.environ,
) -> bool:
    """Print what is wrong, the most important first; returns whether nothing is.

    Args:
        services: Services that must run; others are errors only if they have run on this broker before.
        pages: Addresses of admin pages.
    """
    try:
        examination = asyncio.run(_examine(services, pages, data, environment))
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    found = findings.ordered(examination.findings)
    if as_json:
        for one in found:
            screen.print_json(one.as_dict())
    else:
        _print(found, examination.facts)
    return not any(one.is_error for one in found)


async def _examine(
    services: Sequence[str], pages: Sequence[str], data: Path, environment: Mapping[str, str]
) -> Examination:
    done = Examination()
    fetched = await admin.fetch(pages)
    done.findings += findings.of_environment(environment)
    done.findings += findings.of_admin(fetched)
    version = ""
    try:
        settings = settings_of(DataFolder(data), "doctor")
        greeted = await _greet(settings, done)
        if greeted is not None and not any(one.kind is Kind.OLD_BROKER for one in done.findings):
            version = greeted
            await _examine_broker(settings, version, services, done)
    except BrokerRefused as error:
        _add(done, Kind.REFUSED, str(error), "correct TOWPATH_AMQP_URL: its account is one of RabbitMQ's own")
    except BadSetting as error:
        # One for each variable: of a misspelt one the environment's check has said it already.
        if not any(one.kind is Kind.SETTING for one in done.findings):
            _add(done, Kind.SETTING, str(error), "docs/reference/settings.md has each setting and its values")
    except BadEntryPoint as error:
        _add(done, Kind.SETTING, str(error), "install the service again")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = None if hard == resource.RLIM_INFINITY else hard
    done.findings += findings.of_limits(limit, environment, version)
    return done


async def _greet(settings: BrokerSettings, done: Examination) -> str | None:
    """The version of the broker, empty if it does not say; ``None`` if it does not answer."""
    try:
        greeting = await greeting_of(settings.amqp_url)
    except BadSetting as error:
        _add(
            done,
            Kind.UNREACHABLE,
            str(error),
            "start RabbitMQ, or correct host and port; programs wait for it and reconnect by themselves",
        )
        return None
    product, _, version = greeting.partition(" ")
    done.findings += findings.of_version(product, version)
    done.facts.append(greeting or "RabbitMQ (by TLS)")
    return version


async def _examine_broker(
    settings: BrokerSettings, version: str, services: Sequence[str], done: Examination
) -> None:
    try:
        async with connected_to(settings, "doctor") as broker:
            await _examine_programs(broker, version, settings, services, done)
    except NoConnection as error:
        _add(
            done,
            Kind.UNREACHABLE,
            f"{error}, though it answers",
            "see RabbitMQ's log: a limit of connections, a virtual host that is down, or a slow machine",
        )


async def _examine_programs(
    broker: Broker, version: str, settings: BrokerSettings, services: Sequence[str], done: Examination
) -> None:
    names = sorted({*survey.installed(), *services})
    try:
        async with Listening.begin(broker) as listening:
            picture = await survey.take(broker, listening, version, names)
            done.findings += findings.of_picture(picture, services)
            done.findings += findings.of_clocks(listening.programs)
            running = [one for one in picture.services if one.problem() is None]
            done.facts += [f"{len(picture.gateways)} gateways", f"{len(running)} services"]
    except (BrokerRefused, Unpublishable) as error:
        account = settings.account or "(of the connection)"
        _add(
            done,
            Kind.PERMISSION,
            f"the account {account!r} may not do what operators' commands need: {error}",
            f"use the account `ops` in TOWPATH_AMQP_URL, and give it its permissions: {_SETUP}",
        )
    except BrokerError as error:
        _add(done, Kind.UNREACHABLE, str(error), "see RabbitMQ's log")


def _add(done: Examination, kind: Kind, problem: str, remedy: str) -> None:
    done.findings.append(Finding(kind, problem, remedy))


def _print(found: Sequence[Finding], facts: Sequence[str]) -> None:
    console = screen.console()
    for one in found:
        head = ("wrong   ", "bold red") if one.is_error else ("advice  ", "bold yellow")
        console.print(Text.assemble(head, plain(one.problem)))
        console.print(Text.assemble(("  mend  ", "dim"), plain(one.remedy)))
    if not any(one.is_error for one in found):
        console.print(plain(f"Nothing is wrong: {', '.join(facts)}.", "green"))
