"""Structured logs on standard error: coloured text for people at a terminal, elsewhere one JSON object a line.

Guarantees:

* No event fills the log: :mod:`~towpath.servicekit.runtime.flood_limit`.
* Logs contain ids only: never a body, a token or a user's text. So exceptions are formatted by
  :mod:`~towpath.servicekit.runtime.error_text`, which leaves out the values that drivers and Python quote.
* A value that others chose (a user id, a routing key, the text of a foreign error) cannot steer the log: no value
  begins a line, moves the cursor or hides its neighbours, and none is longer than :data:`VALUE_LETTERS`.
"""

import atexit
import logging
import os
import sys
from typing import Final

import structlog

from towpath.servicekit.runtime.error_text import traceback_text
from towpath.servicekit.runtime.flood_limit import LEFT_OUT, FloodLimit
from towpath.servicekit.runtime.settings import TelemetrySettings

log = structlog.get_logger(__name__)

#: The driver's line about a connection that cannot be made: it also raises the error, which is logged once, with the
#: address and the time of the next attempt.
_RAISED_AS_WELL: Final = "error when creating transport"
#: Letters of one value in a log line; a traceback may have more.
VALUE_LETTERS: Final = 500


def bound_values(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Shorten the values that are too long; lists and objects become text then."""
    for name, value in event.items():
        if name == "exception" or isinstance(value, (int, float)):
            continue
        text = value if isinstance(value, str) else repr(value)
        if len(text) > VALUE_LETTERS:
            event[name] = f"{text[:VALUE_LETTERS]}… ({len(text)} letters)"
    return event


def show_controls(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    r"""Write what is not printable as an escape, as JSON does: a terminal obeys ``\x1b``, and bidi marks reorder."""
    for name, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if name == "exception" else [value]
            event[name] = "\n".join(map(_visible, lines))
    return event


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def format_exception_event(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Format the exception of a log line with its traceback and without payload."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = traceback_text(error)
    return event


def configure(service: str, settings: TelemetrySettings) -> None:
    """Set up logging for the whole process; records of libraries get the same format."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    is_terminal = sys.stderr.isatty()
    is_text = settings.log_format == "console" or (settings.log_format == "auto" and is_terminal)
    # https://no-color.org
    colors = is_terminal and not os.environ.get("NO_COLOR")
    renderers: list[structlog.typing.Processor] = (
        [show_controls, structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=28)]
        if is_text
        else [structlog.processors.JSONRenderer()]
    )

    def name_service(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            name_service,
            format_exception_event,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, name_service, format_exception_event],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                bound_values,
                *renderers,
            ],
        )
    )
    limit = FloodLimit(settings.log_burst, lambda event, count: log.warning(LEFT_OUT, of=event, count=count))
    handler.addFilter(limit)
    atexit.register(limit.flush)
    logging.getLogger("aiormq.connection").addFilter(_is_not_raised_as_well)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for chatty in ("aio_pika", "aiormq", "alembic", "websockets", "aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _is_not_raised_as_well(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_RAISED_AS_WELL)
