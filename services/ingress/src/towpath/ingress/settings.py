"""Settings of the ingress."""

from typing import Annotated

from pydantic import Field

from towpath.servicekit.runtime.settings import BrokerSettings, Port, Seconds, Word


class IngressSettings(BrokerSettings):
    """See also :class:`~towpath.servicekit.runtime.settings.BrokerSettings`.

    Attributes:
        host, port: Where ``/v1/events`` and ``/v1/push`` are served.
        tls_certificate: PEM file with the certificate and its chain; with it the ingress serves ``https`` only.
        tls_key: PEM file with the private key of that certificate.
        api_keys: File (JSON) of the hashed API keys and their rights, as ``towpath-ingress key`` writes it. Without
            the file, or while it has no key, every request is refused with 401.
        api_keys_check: Seconds between two checks whether that file has changed. While a changed file cannot be used,
            the former keys stay.
        body_max_bytes: The largest body of a request; past it 413.
        header_max_bytes: The largest head of a request (its first line and all headers); past it 431.
        items_max: Events or pushes in one request; past it 413.
        nesting_max: Objects and arrays inside each other in one item.
        max_connections: Open connections; more are answered 503.
        requests_max: Requests that are handled at the same time; more are answered 503.
        header_timeout: Seconds until the head of a request must be there, after its connection was opened or its
            first byte came; past it 408.
        body_timeout: Seconds until its body must be there; past it 408.
        request_timeout: Seconds until a request must be answered and its answer be taken; past it the connection is
            closed.
        keep_alive: Seconds that a connection may be idle between two requests.
        rate_per_key, burst_per_key: Items a second of one API key in the long run, and at once; a request counts as
            one item at least. Past it 429. 0 for no limit.
        publish_window: Items of one request that wait for their confirm at the same time.
        domain_refused_for: Seconds until RabbitMQ is asked again about a domain whose events it does not take from
            the ingress; until then they are answered 403.
        idempotency_max: Idempotency keys that are remembered with a fingerprint of their body, to refuse another
            body; the oldest are forgotten first. That a repeated request has its effect once needs none of this.
        idempotency_retention: Seconds that they are remembered.
        retry_after: Advice to those who are refused for a moment (503), in seconds.
    """

    host: Word = "127.0.0.1"
    port: Port = 8090
    admin_port: Port = 8091
    tls_certificate: Word | None = None
    tls_key: Word | None = None
    api_keys: Word
    api_keys_check: Seconds = 5.0
    body_max_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    header_max_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = 16 * 1024
    items_max: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    nesting_max: Annotated[int, Field(ge=4, le=100)] = 50
    max_connections: Annotated[int, Field(ge=1)] = 1_000
    requests_max: Annotated[int, Field(ge=1)] = 100
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 20.0
    request_timeout: Seconds = 60.0
    keep_alive: Seconds = 30.0
    rate_per_key: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2_000.0
    burst_per_key: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 20_000.0
    publish_window: Annotated[int, Field(ge=1, le=10_000)] = 200
    domain_refused_for: Seconds = 30.0
    idempotency_max: Annotated[int, Field(ge=1)] = 100_000
    idempotency_retention: Seconds = 86_400.0
    retry_after: Annotated[int, Field(ge=1, le=3600)] = 2
