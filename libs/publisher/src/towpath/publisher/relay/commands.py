"""The commands of ``towpath-relay``."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from towpath.publisher.errors import BrokerRefused
from towpath.publisher.publisher import OF_URL, Publisher
from towpath.publisher.relay.admin import Metrics, serve_admin
from towpath.publisher.relay.database import UNREACHABLE, Outbox, OutboxMissing
from towpath.publisher.relay.relay import Progress, Relay
from towpath.publisher.relay.settings import PREFIX, BadSetting, DatabaseSettings, RelaySettings, load
from towpath.publisher.sql import outbox_sql, outbox_statements

_PARKED_SHOWN: Final = 1_000
_CHATTY: Final = ("aio_pika", "aiormq", "asyncio")

log = logging.getLogger(__name__)


#: As in sysexits.h, and as all programs of Towpath end: a setting, a refused account, an unusable argument.
_BAD_SETTING: Final = 78
_REFUSED: Final = 77
_USAGE: Final = 2
_TEXT: Final = "%(asctime)s %(levelname)-8s %(message)s"


class CannotStart(Exception):
    """The program cannot do this, and a restart would not help; the text has the remedy.

    Attributes:
        status: The exit status.
    """

    def __init__(self, text: str, status: int = _BAD_SETTING) -> None:
        super().__init__(text)
        self.status = status


async def run(_: argparse.Namespace) -> None:
    """Publish the outbox until SIGTERM or SIGINT."""
    with _clearly():
        settings = load(RelaySettings)
        settings.connection()  # Wrong settings end the program before it connects.
        try:
            publisher = Publisher(
                settings.amqp_url,
                app_id=settings.relay_app_id,
                user_id={None: OF_URL, "none": None}.get(settings.amqp_user_id, settings.amqp_user_id),
                ca=settings.amqp_ca,
                certificate=settings.amqp_certificate,
                key=settings.amqp_key,
                connect_timeout=None,
                max_waiting=settings.relay_batch,
                max_waiting_bytes=2 * settings.relay_batch_bytes,
                max_bytes=settings.message_max_bytes,
                reconnect_max=settings.reconnect_max,
            )
        except ValueError as error:
            raise CannotStart(f"{PREFIX}AMQP_URL: {error}") from None
        _log(settings.log_level)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with publisher:
            relay = Relay(settings, publisher)

            def failing() -> list[str]:
                checks = {
                    "draining": not stop.is_set(),
                    "database": relay.progress.database,
                    "broker": publisher.is_connected,
                }
                return [name for name, passes in checks.items() if not passes]

            async with contextlib.AsyncExitStack() as stack:
                admin = serve_admin(
                    settings.admin_host, settings.admin_port, failing, lambda: metrics(relay.progress)
                )
                try:
                    port = await stack.enter_async_context(admin)
                except OSError as error:
                    raise CannotStart(
                        f"{PREFIX}ADMIN_PORT={settings.admin_port}: cannot listen on {settings.admin_host}: "
                        f"{error.strerror}"
                    ) from None
                log.info("admin_listening: port %d", port)
                await _relay(relay, publisher, stop)


async def _relay(relay: Relay, publisher: Publisher, stop: asyncio.Event) -> None:
    try:
        async with asyncio.TaskGroup() as tasks:
            # Ends the program if RabbitMQ refuses it, also when there is nothing to publish.
            connecting = tasks.create_task(publisher.connected())
            await relay.run(stop)
            connecting.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def install(parsed: argparse.Namespace) -> None:
    """Make the outbox."""
    async with _outbox() as (settings, outbox):
        await outbox.run(
            outbox_statements(settings.outbox_schema, publishers=parsed.publisher, relays=parsed.relay)
        )
        _print(f"{settings.outbox_schema}.towpath_outbox and towpath_publish are there.")


async def sql(parsed: argparse.Namespace) -> None:
    """Print the SQL of the outbox."""
    with _clearly():
        schema = load(_Schema).outbox_schema
        sys.stdout.write(outbox_sql(schema, publishers=parsed.publisher, relays=parsed.relay))


async def parked(_: argparse.Namespace) -> None:
    """List the parked events."""
    async with _outbox() as (_settings, outbox):
        await outbox.check()
        rows = await outbox.parked(_PARKED_SHOWN)
        for row in rows:
            shown = {"row": row.id, "aggregate": row.aggregate, "action": row.action, "msg_id": row.msg_id}
            _print(json.dumps({**shown, "reason": row.reason}))
        if not rows:
            _print("No event is parked.")


async def retry(parsed: argparse.Namespace) -> None:
    """Let parked events be published again."""
    if bool(parsed.row) == parsed.all:
        raise CannotStart("retry: name rows of `towpath-relay parked`, or --all", _USAGE)
    async with _outbox() as (_settings, outbox):
        await outbox.check()
        _report("will be published again", await outbox.retry(None if parsed.all else parsed.row), parsed.row)


async def drop(parsed: argparse.Namespace) -> None:
    """Delete parked events."""
    async with _outbox() as (_settings, outbox):
        await outbox.check()
        _report("dropped", await outbox.drop(parsed.row), parsed.row)


COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], Coroutine[Any, Any, None]]]] = {
    "run": run,
    "install": install,
    "sql": sql,
    "parked": parked,
    "retry": retry,
    "drop": drop,
}


def metrics(progress: Progress) -> Metrics:
    """The numbers of ``/metrics``."""
    return {
        "towpath_relay_active": ("1 if this relay publishes, 0 if it waits", "gauge", progress.active),
        "towpath_relay_published_total": ("Events confirmed and deleted", "counter", progress.published),
        "towpath_relay_repeated_total": ("Publishes that were not confirmed", "counter", progress.repeated),
        "towpath_relay_parked_total": ("Events parked by this relay", "counter", progress.parked),
        "towpath_relay_rows_held": ("Rows in memory", "gauge", progress.held),
        "towpath_relay_parked": ("Events that wait for an operator", "gauge", progress.state.parked),
        "towpath_relay_oldest_seconds": ("Age of the oldest other event", "gauge", progress.state.age),
    }


class _Schema(DatabaseSettings):
    database_url: str = ""


@asynccontextmanager
async def _outbox() -> AsyncIterator[tuple[DatabaseSettings, Outbox]]:
    with _clearly():
        settings = load(DatabaseSettings)
        try:
            outbox = await Outbox.open(settings)
        except UNREACHABLE as error:
            raise CannotStart(f"{PREFIX}DATABASE_URL: no connection to PostgreSQL: {error}") from None
        try:
            yield settings, outbox
        finally:
            await outbox.close()


@contextlib.contextmanager
def _clearly() -> Iterator[None]:
    try:
        yield
    except (BadSetting, OutboxMissing) as error:
        raise CannotStart(str(error)) from None
    except BrokerRefused as error:
        raise CannotStart(f"{PREFIX}AMQP_URL: {error}", _REFUSED) from None


def _report(what: str, rows: Sequence[int], wanted: Sequence[int]) -> None:
    _print(f"{len(rows)} {what}: {', '.join(map(str, rows)) or 'none'}")
    if missing := sorted(set(wanted) - set(rows)):
        raise CannotStart(
            f"not parked: {', '.join(map(str, missing))}; `towpath-relay parked` lists the rows", _USAGE
        )


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _log(level: str) -> None:
    """Text on a terminal, elsewhere one JSON object a line, as Towpath's programs log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_TEXT) if sys.stderr.isatty() else _Json())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.CRITICAL)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event, _, detail = record.getMessage().partition(": ")
        line = {
            "event": event,
            **({"detail": detail[:500]} if detail else {}),
            "service": "relay",
            "level": record.levelname.lower(),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
