"""Settings: environment variables ``TOWPATH_*``, checked at start.

An invalid setting stops the program at once with exit status 78 and one line with the variable, its value and the
remedy (secrets are never shown). So does an unknown variable that is spelled nearly like a setting
(:mod:`~towpath.servicekit.runtime.spelling`). Every limit in Towpath is a field of one of these models.
"""

import os
from collections.abc import Collection
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from yarl import URL

from towpath.protocol.messages import BODY_MAX_ITEMS, MESSAGE_MAX_BYTES
from towpath.servicekit.runtime import amqp_url, database_url, spelling
from towpath.servicekit.runtime.exit_status import ExitStatus

PREFIX = spelling.PREFIX


class CannotStart(Exception):
    """A program cannot start, and a restart would not help. The text gives the remedy.

    Attributes:
        status: The exit status of the program, which names the kind.
    """

    status: ClassVar[ExitStatus] = ExitStatus.BAD_SETTING


class BadSetting(CannotStart):
    """A setting that cannot be used.

    Args:
        name: The environment variable.
        value: Its value; ``None`` when it is missing or must not be shown.
        remedy: The remedy.

    Example:
        >>> print(BadSetting("TOWPATH_PORT", 70000, "must be 65535 or less"))
        TOWPATH_PORT='70000': must be 65535 or less
    """

    def __init__(self, name: str, value: object | None, remedy: str) -> None:
        shown = "" if value is None else f"={str(value)[:100]!r}"
        super().__init__(f"{name}{shown}: {remedy}")


class RefusedLogin(BadSetting):
    """The other side answered and refuses the account that a setting names."""

    status = ExitStatus.REFUSED


def no_surrounding_space(value: str) -> str:
    """Return ``value`` unchanged, if it has no white space at its ends.

    Raises:
        ValueError
    """
    if value != value.strip():
        raise ValueError(
            "begins or ends with white space, such as the line break at the end of a file; remove it"
        )
    return value


def _amqp_url(value: str) -> str:
    amqp_url.hosts(value)
    return value


def _http_url(value: str) -> str:
    url = URL(value)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be http://host:port (or https://)")
    return value


#: Text in which white space at an end is an error: a secret with a line break is a different secret.
Word = Annotated[str, AfterValidator(no_surrounding_space)]
#: A TCP port; 0 for any free one.
Port = Annotated[int, Field(ge=0, le=65535)]
#: A time limit or pause: more than 0, at most a day.
Seconds = Annotated[float, Field(gt=0, le=86_400)]
#: ``sqlite:///file.db`` or ``postgresql://user:password@host/database``, as a URL of SQLAlchemy with its driver.
DatabaseUrl = Annotated[Word, AfterValidator(database_url.with_driver)]


class TelemetrySettings(BaseSettings):
    """Logs, metrics and traces.

    Attributes:
        log_level: The least that is logged to standard error.
        log_format: One JSON object a line, or text for people; ``auto`` is text where standard error is a terminal,
            and JSON elsewhere.
        log_burst: Lines of one event that are logged in a minute. More are counted, and the count is logged.
        trace_ratio: The share of requests whose spans are recorded, if they are sent anywhere.
        traces_per_second: Traces that one program begins to record a second in the long run, and twice as many at
            once; so their cost has a bound at any load. 0 for no limit.
        otlp_endpoint: Base URL of an OpenTelemetry collector (OTLP over HTTP).
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    log_format: Annotated[str, Field(pattern="^(auto|json|console)$")] = "auto"
    log_burst: Annotated[int, Field(ge=1)] = 20
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    traces_per_second: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    otlp_endpoint: Annotated[Word, AfterValidator(_http_url)] | None = None


class BrokerSettings(TelemetrySettings):
    """Settings of every program that uses the broker.

    Attributes:
        amqp_url: The broker. Nodes of a cluster are separated by commas:
            ``amqp://user:password@one:5672,two:5672/vhost``.
        amqp_user_id: The account that published messages name in their AMQP property ``user_id``, for logins whose
            account is not the user of ``amqp_url`` (certificates, tokens); ``none`` to name no account. RabbitMQ
            refuses messages that name another account than their connection's.
        amqp_ca: File (PEM) of the certificate authorities that RabbitMQ's certificate must come from, for
            ``amqps://``; by default the system's.
        amqp_certificate, amqp_key: Files (PEM) of this program's own certificate and its key, if RabbitMQ asks for
            one.
        publish_timeout: Seconds until an unconfirmed publish counts as unknown.
        reconnect_max: Longest wait between two attempts to reach the broker, in seconds (full jitter). Within a
            minute of its loss no wait is longer than 5 s.
        lane_max_items: Messages that may wait for one routing key; more are answered ``busy``.
        lane_max_bytes: Bytes that may wait for all routing keys of an exchange together.
        batch_max_items, batch_max_bytes: The largest batch a lane publishes as one message.
        message_max_bytes: The largest body that is published; what is larger is parked or dropped. It must not be
            more than the broker's own limit: 16 MiB by default in RabbitMQ 4 (``max_message_size``), 128 MiB in 3.
        drain_timeout: Seconds that a stopping program may take to finish what it has in hand.
        descriptors_reserve: File descriptors kept for the admin pages, the broker, the database and logs. The limit
            of open files is raised at start as far as the system allows.
        admin_host, admin_port: Where ``/health/live``, ``/health/ready`` and ``/metrics`` are served.
    """

    amqp_url: Annotated[Word, AfterValidator(_amqp_url)] = "amqp://guest:guest@127.0.0.1:5672/"
    amqp_user_id: Word | None = None
    amqp_ca: Word | None = None
    amqp_certificate: Word | None = None
    amqp_key: Word | None = None
    publish_timeout: Seconds = 10.0
    reconnect_max: Seconds = 30.0
    lane_max_items: Annotated[int, Field(ge=1)] = 10_000
    lane_max_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    batch_max_items: Annotated[int, Field(ge=1, le=BODY_MAX_ITEMS)] = 500
    batch_max_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    message_max_bytes: Annotated[int, Field(ge=64 * 1024, le=512 * 1024 * 1024)] = MESSAGE_MAX_BYTES
    drain_timeout: Seconds = 30.0
    descriptors_reserve: Annotated[int, Field(ge=10)] = 100
    admin_host: Word = "127.0.0.1"
    admin_port: Port = 9090

    @property
    def account(self) -> str | None:
        """The account that published messages name; ``None`` for none."""
        if self.amqp_user_id is None:
            return amqp_url.account(self.amqp_url)
        return None if self.amqp_user_id == "none" else self.amqp_user_id


class ServiceSettings(BrokerSettings):
    """Settings of a service that owns a domain; a service derives its own from them.

    Each field is read from the environment variable of its name, ``TOWPATH_DATABASE_URL`` for ``database_url``.

        >>> class HelloSettings(ServiceSettings):
        ...     greetings_max: Annotated[int, Field(ge=1)] = 100
        >>> HelloSettings(database_url="sqlite:///hello.db", greetings_max=5).database_url
        'sqlite+aiosqlite:///hello.db'

    Attributes:
        gateway_users: RabbitMQ accounts of gateways, separated by commas. If set, commands of other accounts are
            refused and counted, and each service must log in under its own name; if empty, every account that may
            publish a command is believed.
        database_url: SQLAlchemy URL of the service's own database; the service's name takes the place of `{service}`.
        database_ca: File (PEM) of the certificate authorities that PostgreSQL's certificate must come from, for
            ``ssl=verify-full`` in ``database_url``; by default the system's.
        database_certificate, database_key: Files (PEM) of this program's own certificate and its key, if PostgreSQL
            asks for one.
        database_probe_interval: Seconds between two database probes: small writes that check whether the database
            accepts writes. While they fail the service is not ready.
        database_probe_timeout: Seconds that a database probe may take, including its wait for other writers.
        lane_max_bytes: Bytes that may wait for all routing keys of an exchange together; a service waits for room.
        prefetch: Maximum of unsettled messages (each a batch) per queue. Users share a service fairly as far as it
            reaches: what waits behind it in RabbitMQ is served in its order.
        intake_max_bytes: Maximum bytes of requests that a service has taken and not handled. The next unit of work is
            chosen from all of them, so that no user waits for the whole flood of another one.
        unit_max_items: Requests that are handled in one transaction at most.
        handler_time_limit: Seconds a handler may take; then it is interrupted and its request parked.
        unit_time_limit: Seconds a transaction may take; then it is rolled back and retried.
        try_seconds: Seconds during which a failed command is retried before its sender is answered `internal`.
        crash_limit: Redeliveries of an unsettled message after which its requests are deferred, each alone.
        queue_max_length: Messages a queue may hold; further publishes are refused (``busy``).
        answer_patience: Seconds to keep an answer whose gateway is absent before it is dropped.
        answer_late_max_bytes: Bytes of such answers that are kept at most; the oldest are dropped first.
        inbox_retention: Seconds that outcomes are kept, so that a repeated ``msg_id`` gets the same answer.
        stream_retention: Seconds that stream entries are kept for clients to resume from.
        outbox_poll: Seconds between two checks of the outbox for messages of another replica that has died.
        effects_poll: Seconds between two looks for effects that are due, or that another replica left.
        effects_retention: Seconds that an effect is remembered after its call has succeeded: for that long its key is
            not called again.
        effects_parked_retention: Seconds that a parked effect is kept for an operator.
        replay_limit: Stream entries that one resume replays at most; past it a client is referred to the history.
        replay_max_bytes: Bytes of stream entries that one resume replays at most; likewise.
        heavy_reads_user_max: Heavy reads (histories, resumes, lists) of one user that may wait or run; more are
            answered `busy`.
        heavy_reads_max: The same for all users together.
        unit_max_bytes: Bytes of answers that heavy reads prepare together.
        alive_interval: Seconds between two `service.alive`, from which gateways learn the costs of actions.
    """

    gateway_users: Word = ""
    database_url: DatabaseUrl = "sqlite+aiosqlite:///towpath-{service}.db"
    database_ca: Word | None = None
    database_certificate: Word | None = None
    database_key: Word | None = None
    database_probe_interval: Seconds = 3.0
    database_probe_timeout: Seconds = 10.0
    lane_max_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    prefetch: Annotated[int, Field(ge=1, le=1000)] = 500
    intake_max_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    unit_max_items: Annotated[int, Field(ge=1, le=5000)] = 500
    handler_time_limit: Seconds = 10.0
    unit_time_limit: Seconds = 30.0
    try_seconds: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)] = 2.5
    crash_limit: Annotated[int, Field(ge=2, le=19)] = 5
    queue_max_length: Annotated[int, Field(ge=1)] = 100_000
    answer_patience: Seconds = 30.0
    answer_late_max_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    inbox_retention: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 86_400.0
    stream_retention: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 7 * 86_400.0
    outbox_poll: Seconds = 1.0
    effects_poll: Seconds = 1.0
    effects_retention: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 7 * 86_400.0
    effects_parked_retention: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 30 * 86_400.0
    replay_limit: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    replay_max_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    heavy_reads_user_max: Annotated[int, Field(ge=1)] = 16
    heavy_reads_max: Annotated[int, Field(ge=1)] = 2_000
    unit_max_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    alive_interval: Seconds = 5.0


S = TypeVar("S", bound=BaseSettings)


def load(model: type[S]) -> S:
    """Read ``model`` from the environment.

    Raises:
        BadSetting: The first that is missing, wrong or misspelt.
    """
    refuse_misspelt(model.model_fields)
    try:
        return model()
    except ValidationError as error:
        raise bad_setting(error, prefix=PREFIX) from None


def refuse_misspelt(own: Collection[str] = ()) -> None:
    """Check that no variable is spelled nearly like a setting.

    Args:
        own: Fields of the settings model of the program that runs.

    Raises:
        BadSetting
    """
    for name, nearest, is_near in spelling.unknown(os.environ, own):
        if is_near:
            raise BadSetting(name, None, f"is not a setting; did you mean {nearest}?")


def bad_setting(error: ValidationError, *, prefix: str) -> BadSetting:
    """The first finding of pydantic as a :class:`BadSetting`."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    name = (prefix + field).upper() if field else "the settings"
    secret = any(word in field for word in ("secret", "url", "key", "password", "endpoint", "issuers"))
    missing = first["type"] == "missing"
    value = None if secret or missing or not field else first["input"]
    problem = first["msg"].removeprefix("Value error, ")
    return BadSetting(name, value, "is required" if missing else problem)
