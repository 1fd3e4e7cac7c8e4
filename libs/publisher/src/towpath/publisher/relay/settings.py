"""Settings of the relay: environment variables ``TOWPATH_*``, with the names that Towpath's programs have."""

import os
import ssl
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from towpath.protocol.messages import MESSAGE_MAX_BYTES
from towpath.publisher.tls import TlsFiles

PREFIX: Final = "TOWPATH_"

_SECRET: Final = ("url",)
_SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")

S = TypeVar("S", bound="DatabaseSettings")
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class BadSetting(Exception):
    """A setting that cannot be used: the program ends with status 78. The text names it and the remedy."""


class DatabaseSettings(BaseModel):
    """Settings of every command of the relay.

    Attributes:
        database_url: The PostgreSQL with the outbox, ``postgresql://user:password@host/database``. Not a pooler that
            lends connections by the transaction: the relay holds a lock and listens.
        database_ca: File (PEM) of the certificate authorities that PostgreSQL's certificate must come from, for
            ``ssl=verify-full`` in ``database_url``; by default the system's.
        database_certificate, database_key: Files (PEM) of this program's own certificate and its key, if PostgreSQL
            asks for one.
        outbox_schema: The schema of the table ``towpath_outbox`` and the function ``towpath_publish``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    database_url: str
    database_ca: str | None = None
    database_certificate: str | None = None
    database_key: str | None = None
    outbox_schema: Annotated[str, Field(min_length=1)] = "public"

    def connection(self) -> tuple[str, "ssl.SSLContext | bool | None"]:
        """The address without its option for TLS, and the TLS that it asks for.

        Raises:
            BadSetting
        """
        parts = urlsplit(self.database_url)
        if parts.scheme not in _SCHEMES:
            raise BadSetting(f"{PREFIX}DATABASE_URL: must be postgresql://user:password@host/database")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "sslmode" in options:
            raise BadSetting(f"{PREFIX}DATABASE_URL: use ssl=verify-full (or ssl=disable) instead of sslmode")
        word = options.pop("ssl", None)
        files = TlsFiles(self.database_ca, self.database_certificate, self.database_key)
        if word not in (None, "verify-full", "disable"):
            raise BadSetting(
                f"{PREFIX}DATABASE_URL: ssl={word!r} does not verify the server: use ssl=verify-full, or ssl=disable"
            )
        if files.any and word != "verify-full":
            raise BadSetting(
                f"{PREFIX}DATABASE_CA, _CERTIFICATE or _KEY: add ?ssl=verify-full to {PREFIX}DATABASE_URL"
            )
        address = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options), ""))
        if word is None:
            return address, None
        try:
            return address, files.context() if word == "verify-full" else False
        except ValueError as error:
            raise BadSetting(f"{PREFIX}DATABASE_CA, _CERTIFICATE or _KEY: {error}") from None


class RelaySettings(DatabaseSettings):
    """Settings of ``towpath-relay``.

    Attributes:
        amqp_url: The broker. Nodes of a cluster are separated by commas:
            ``amqp://user:password@one:5672,two:5672/vhost``.
        amqp_user_id: The account that published messages name, for logins whose account is not the user of
            ``amqp_url``; ``none`` to name no account.
        amqp_ca: File (PEM) of the certificate authorities that RabbitMQ's certificate must come from, for
            ``amqps://``; by default the system's.
        amqp_certificate, amqp_key: Files (PEM) of this program's own certificate and its key, if RabbitMQ asks for
            one.
        relay_app_id: The name of the program whose events these are. With the account it is their sender, so keep it.
        relay_batch, relay_batch_bytes: Rows in memory at most, and the bytes of their data.
        relay_poll: Seconds between two looks at the outbox without a notification, and of a waiting relay between
            two attempts to become the active one.
        relay_unroutable: Seconds that an event without a bound queue is published again before it is parked.
        publish_timeout: Seconds after which an unconfirmed event is logged; it is published until it is confirmed.
        reconnect_max: Longest wait between two attempts to reach the broker or the database, in seconds (full
            jitter).
        message_max_bytes: The largest message that is published; a larger one is parked.
        drain_timeout: Seconds that a stopping relay waits for confirms.
        log_level: The least that is logged to standard error.
        admin_host, admin_port: Where ``/health/live``, ``/health/ready`` and ``/metrics`` are served.
    """

    amqp_url: str = "amqp://guest:guest@127.0.0.1:5672/"
    amqp_user_id: str | None = None
    amqp_ca: str | None = None
    amqp_certificate: str | None = None
    amqp_key: str | None = None
    relay_app_id: Annotated[str, Field(min_length=1, max_length=64)]
    relay_batch: Annotated[int, Field(ge=1, le=100_000)] = 500
    relay_batch_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    relay_poll: Seconds = 1.0
    relay_unroutable: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    publish_timeout: Seconds = 10.0
    reconnect_max: Seconds = 30.0
    message_max_bytes: Annotated[int, Field(ge=64 * 1024, le=512 * 1024 * 1024)] = MESSAGE_MAX_BYTES
    drain_timeout: Seconds = 30.0
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    admin_host: str = "127.0.0.1"
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 9090


def load(model: type[S], environment: Mapping[str, str] | None = None) -> S:
    """Read ``model`` from the environment.

    Raises:
        BadSetting: The first that is missing or wrong.
    """
    given = os.environ if environment is None else environment
    found = {
        name: given[PREFIX + name.upper()] for name in model.model_fields if PREFIX + name.upper() in given
    }
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise BadSetting(_first(error.errors(include_url=False)[0])) from None


def _first(problem: Mapping[str, Any]) -> str:
    field = str(problem["loc"][0])
    name = PREFIX + field.upper()
    if problem["type"] == "missing":
        return f"{name}: is required"
    shown = "" if field.endswith(_SECRET) else f"={str(problem['input'])[:100]!r}"
    return f"{name}{shown}: {problem['msg']}"
