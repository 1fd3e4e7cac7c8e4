"""Structured logs on standard error: one JSON object a line, or coloured text for people.

Logs contain ids only: never a body, a token or a user's text. So exceptions are formatted by
:mod:`~towpath.servicekit.runtime.error_text`, which leaves out the values that drivers and Python quote.
"""

import logging
import sys

import structlog

from towpath.servicekit.runtime.error_text import traceback_text
from towpath.servicekit.runtime.settings import TelemetrySettings


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
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28)
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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for chatty in ("aio_pika", "aiormq", "alembic", "websockets", "aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
