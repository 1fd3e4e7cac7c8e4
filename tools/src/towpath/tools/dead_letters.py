"""``towpath dead-letters``: look at what is parked, play it again, or drop it.

Guarantees:

* Looking loses nothing, however often: messages are fetched one by one without being settled, and the broker has all
  of them back when the look ends, also when the tool is killed. It changes nothing either, but that one which is
  killed may leave another order. Memory does not grow with the queue.
* A message is played again only if the broker has confirmed it in the queue it came from; only then it leaves the
  dead queue. Whatever breaks in between, it may be played twice, and is never lost; the inbox makes it once.
* Only messages that waited when the command began are touched, so a message that fails at once and is parked again is
  left alone.
* For each message that is played again or dropped there is a line on standard error, and in the audit file; without
  the line it is not taken out.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from towpath.protocol.routes import again_exchange, dead_queue
from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerUnavailable,
    Delivery,
    PublishRefused,
    QueueBrowser,
    Unpublishable,
    Unroutable,
)
from towpath.servicekit.installed import installed_services
from towpath.tools.listing import console, plain, when
from towpath.tools.operating import run, who
from towpath.tools.parked import Parked, Wanted, read
from towpath.tools.trouble import Interrupted, Trouble

log = structlog.get_logger(__name__)

REPLAYED: Final = "replayed"
DROPPED: Final = "dropped"

_NAME: Final = re.compile(r"[\w.:-]{1,100}")


class NoDeadQueue(Trouble):
    """The service does not exist, or never ran on this broker."""


class NoSuchMessage(Trouble):
    """Nothing of that name is parked."""


class NotSaid(Trouble):
    """The command would do more than was asked for."""

    status = 2


class NoAudit(Trouble):
    """The audit file cannot be written."""

    status = 2


class Unfinished(Trouble):
    """Something stopped it; what was not done stays parked."""


@dataclass(slots=True)
class Tally:
    """The progress of one command.

    Attributes:
        skipped: Messages whose original queue is unknown.
    """

    verb: str
    done: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.done} {self.verb}" + (f", {self.skipped} skipped" if self.skipped else "")


# The commands


def list_(service: str | None, wanted: Wanted, *, limit: int, as_json: bool, data: Path) -> None:
    """Print what is parked, oldest first."""

    async def look(broker: Broker) -> None:
        # AMQP cannot list queues. A service that is not installed here has to be named.
        for name in [service] if service else [one.name for one in installed_services()]:
            try:
                await _list_one(broker, name, wanted, limit=limit, as_json=as_json)
            except NoDeadQueue:
                if service:
                    raise

    run(look, data, "dead-letters")


def show(service: str, msg_id: str, *, as_json: bool, data: Path) -> None:
    """Print all that is known of one message.

    Raises:
        NoSuchMessage
    """

    async def look(broker: Broker) -> None:
        found = 0
        async with _parked(broker, service) as looking:
            async for _, parked in _each(looking):
                if msg_id in parked.ids:
                    found += 1
                    _print_whole(parked, as_json=as_json)
        if not found:
            raise NoSuchMessage(f"no message {msg_id[:70]!a} is parked in {dead_queue(service)}")

    run(look, data, "dead-letters")


def replay(
    service: str, wanted: Wanted, *, dry_run: bool, rate: float | None, audit: Path | None, data: Path
) -> None:
    """Publish what is wanted to where it came from, and take it out of the dead queue.

    Args:
        rate: Messages a second at most.

    Raises:
        NoSuchMessage: One of the ids is not there; nothing is done.
        Unfinished: The broker did not take one; those before it are done.
    """

    async def play(broker: Broker) -> None:
        pace = _Pace(rate)

        async def again(parked: Parked) -> bool:
            if not parked.queue:
                log.warning("nobody_knows_where_it_came_from", msg_id=parked.id, reason=parked.reason)
                return False
            await pace.wait()
            # Mandatory: RabbitMQ would confirm a message for a deleted queue, and drop it.
            try:
                await broker.publish(again_exchange(service), parked.queue, parked.again(), mandatory=True)
            except Unpublishable:
                # A service of an earlier version has no such exchange: by the name of its queue.
                await broker.publish("", parked.queue, parked.again(), mandatory=True)
            return True

        await _do(broker, service, wanted, REPLAYED, again, dry_run=dry_run, audit=audit)

    run(play, data, "dead-letters")


def drop(service: str, wanted: Wanted, *, yes: bool, dry_run: bool, audit: Path | None, data: Path) -> None:
    """Take what is wanted out of the dead queue, for good.

    Raises:
        NotSaid: Without ids, and without a confirmation.
    """

    async def away(_: Parked) -> bool:
        return True

    async def throw(broker: Broker) -> None:
        if not wanted.ids and not (yes or dry_run):
            count = await _count(broker, service, wanted)
            raise NotSaid(
                f"this would drop {count} of {dead_queue(service)} for good: say --yes, or name them"
            )
        await _do(broker, service, wanted, DROPPED, away, dry_run=dry_run, audit=audit)

    run(throw, data, "dead-letters")


# Doing


async def _do(
    broker: Broker,
    service: str,
    wanted: Wanted,
    verb: str,
    act: Callable[[Parked], Awaitable[bool]],
    *,
    dry_run: bool,
    audit: Path | None,
) -> None:
    total = await _count(broker, service, wanted)
    if dry_run:
        print(f"{total} would be {verb}")  # noqa: T201  # a command speaks to a person
        return
    tally = Tally(verb)
    with _audit(audit) as write, _progress(verb, total) as advance:
        try:
            async with _parked(broker, service) as looking:
                async for delivery, parked in _each(looking):
                    # Not a `break`: a look that ends half-way changes the order of the queue (see `_each`).
                    if tally.done + tally.skipped >= total or not wanted.fits(parked):
                        continue
                    if await act(parked):
                        # Publish, line, ack: a tool that is killed in between leaves the message parked, and the
                        # inbox makes a second play harmless.
                        write(_line(service, verb, parked))
                        delivery.ack()
                        tally.done += 1
                    else:
                        tally.skipped += 1
                    advance()
        except BrokerError as error:
            raise Unfinished(f"{tally}, and then: {_why(error)}; the rest stays parked") from None
        except asyncio.CancelledError:
            raise Interrupted(f"interrupted: {tally}; the rest stays parked") from None
    print(tally)  # noqa: T201  # a command speaks to a person


async def _count(broker: Broker, service: str, wanted: Wanted) -> int:
    """How many fit.

    Raises:
        NoSuchMessage: One of the ids that were given is not there.
    """
    missing, count = set(wanted.ids), 0
    async with _parked(broker, service) as looking:
        if wanted.everything:
            # Without reading them: the broker has counted.
            return looking.waiting
        async for _, parked in _each(looking):
            if wanted.fits(parked):
                missing -= parked.ids
                count += 1
    if missing:
        names = ", ".join(f"{name[:70]!a}" for name in sorted(missing)[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise NoSuchMessage(f"no message {names}{more} is parked in {dead_queue(service)}; nothing was done")
    return count


@asynccontextmanager
async def _parked(broker: Broker, service: str) -> AsyncIterator[QueueBrowser]:
    async with AsyncExitStack() as stack:
        try:
            if not _NAME.fullmatch(service):
                raise BrokerError("no queue has such a name")
            looking = await stack.enter_async_context(broker.browse(dead_queue(service)))
        except BrokerUnavailable:
            raise
        except BrokerError:
            raise NoDeadQueue(
                f"there is no queue {dead_queue(service)[:70]!a}: no service of that name has run on this broker"
            ) from None
        yield looking


async def _each(looking: QueueBrowser) -> AsyncIterator[tuple[Delivery, Parked]]:
    """The messages that waited at the start, except those that others took meanwhile.

    Look at all of it: RabbitMQ puts what is given back behind what was given back before, so who stops half-way
    changes the order.
    """
    for _ in range(looking.waiting):
        try:
            delivery = await anext(looking)
        except StopAsyncIteration:
            return
        yield delivery, read(delivery)


class _Pace:
    """At most so many a second."""

    def __init__(self, rate: float | None) -> None:
        self._step = 1 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next:
            await asyncio.sleep(self._next - now)
        # Not from `_next` alone: a slow step must not be followed by a burst.
        self._next = max(now, self._next) + self._step


def _why(error: BrokerError) -> str:
    match error:
        case Unroutable():
            return f"{error}; start the service once"
        case PublishRefused():
            return f"{error}; let the service catch up, and take a --rate"
        case BrokerBlocked():
            return str(error)
    return f"the broker is away ({error})"


# The audit


def _line(service: str, verb: str, parked: Parked) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": who(),
        "what": verb,
        "service": service,
        "msg_id": parked.id,
        "msg_ids": sorted(parked.ids),
        "action": parked.actions,
        "user": parked.users,
        "reason": parked.reason,
        "queue": parked.queue,
        "trace_id": parked.as_dict()["trace_id"],
    }


@contextmanager
def _audit(path: Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    with contextlib.ExitStack() as stack:
        file: TextIO | None = None
        if path is not None:
            try:
                file = stack.enter_context(path.open("a", encoding="utf-8"))
            except OSError as error:
                raise NoAudit(f"--audit {str(path)!a} cannot be written: {error.strerror}") from None

        def write(line: dict[str, Any]) -> None:
            if file is not None:
                try:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    # Before the ack: a message that is taken out has its line, also after a crash of this machine.
                    os.fsync(file.fileno())
                except OSError as error:
                    raise NoAudit(
                        f"--audit {str(path)!a} cannot be written any more: {error.strerror}"
                    ) from None
            log.info(line["what"], **{name: value for name, value in line.items() if name != "what"})

        yield write


# The screen


async def _list_one(broker: Broker, service: str, wanted: Wanted, *, limit: int, as_json: bool) -> None:
    shown: list[Parked] = []
    found = 0
    async with _parked(broker, service) as looking:
        async for _, parked in _each(looking):
            if not wanted.fits(parked):
                continue
            found += 1
            if found > limit:
                continue
            if as_json:
                print(json.dumps({"service": service, **parked.as_dict()}))  # noqa: T201
            else:
                shown.append(dataclasses.replace(parked, body=b""))
    if as_json:
        return
    screen = console()
    if shown:
        table = Table("parked (UTC)", "reason", "action", "user", "msg_id", "error", box=None, pad_edge=False)
        for one in shown:
            told = (one.reason, one.actions, one.users, one.id, one.error[:80])
            table.add_row(when(one.parked_at), *map(plain, told))
        screen.print(table)
    counted = f"{found} of {looking.waiting}" + (f", the first {limit} shown" if found > limit else "")
    screen.print(f"{dead_queue(service)}: {counted}")


def _print_whole(parked: Parked, *, as_json: bool) -> None:
    body = parked.body.decode("utf-8", "backslashreplace")
    if as_json:
        print(json.dumps({**parked.as_dict(), "body": body}))  # noqa: T201
        return
    screen = console()
    shown = parked.as_dict()
    for name in (
        "msg_id",
        "reason",
        "error",
        "queue",
        "routing_key",
        "app_id",
        "tries",
        "replayed",
        "trace_id",
    ):
        screen.print(
            Text(f"{name:<12}", style="bold") + plain(str(shown[name] if shown[name] is not None else "–"))
        )
    screen.print(Text(f"{'parked':<12}", style="bold") + Text(f"{when(parked.parked_at)} UTC"))
    for attempt in parked.history:
        screen.print(Text(f"{'tried':<12}", style="bold") + plain(f"{when(attempt.at)}  {attempt.error}"))
        if attempt.where:
            screen.print(plain(f"{'':<12}{'':<21}in {attempt.where}"))
    with contextlib.suppress(ValueError, RecursionError):
        body = json.dumps(json.loads(parked.body), indent=2, ensure_ascii=False)
    for line in body.splitlines():
        screen.print(plain(line))
    screen.print()


@contextmanager
def _progress(verb: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress:
        task = progress.add_task(verb, total=total)
        yield lambda: progress.advance(task)
