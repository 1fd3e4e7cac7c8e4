"""Settings of the gateway: every limit, with a default that is right for most."""

import re
import secrets
from typing import Annotated

from pydantic import AfterValidator, Field

from towpath.gateway.addresses import networks
from towpath.gateway.issuer_list import AUDIENCE, jwks_url, read_issuers
from towpath.servicekit.runtime.settings import BrokerSettings, Port, Seconds, Word


def _origins(value: str) -> str:
    for origin in value.replace(",", " ").split():
        if origin != "*" and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+/?", origin):
            raise ValueError(
                f"{origin!r} is not an origin: name them like https://shop.example, separated by commas"
            )
    return value


def _networks(value: str) -> str:
    try:
        networks(value)
    except ValueError as error:
        raise ValueError(f"{error}: name networks like 10.0.0.0/8, separated by commas") from None
    return value


def _issuers(value: str) -> str:
    read_issuers(value)
    return value


Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Burst = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class GatewaySettings(BrokerSettings):
    """See also :class:`~towpath.servicekit.runtime.settings.BrokerSettings`.

    Attributes:
        host, port: Where ``/ws`` is served.
        gateway_id: Names this replica on the broker; unique.
        tls_certificate: PEM file with the certificate and its chain; with it the gateway serves ``wss`` only.
        tls_key: PEM file with the private key of that certificate.
        tls_check: Seconds between two checks whether these files have changed. A new pair is used for new
            connections, also on SIGHUP; while a pair cannot be used the former one stays.
        auth_secret: Shared secret for HS256 tokens: at least 32 bytes, and not one from documentation. White space at
            its ends is refused: a line break at the end of a file would make it another secret.
        auth_secret_previous: The secret before `auth_secret`: its tokens are accepted as well, until you unset it, so
            that no user has to sign in again when the secret is replaced. Only together with `auth_secret`.
        auth_public_key: PEM text of an RSA (from 2048 bits), P-256 or Ed25519 public key, instead of a secret.
        auth_jwks_url: Address of the issuer's keys (JWKS, RFC 7517), instead of a secret: ``https``, or ``http`` on
            this machine. Tokens are verified with the key that their `kid` names.
        auth_issuer: The `iss` that tokens must have; any if it is not set.
        auth_audience: The `aud` that tokens must have.
        auth_issuers: Several issuers, instead of the four settings above: a JSON list of
            ``{"issuer", "audience", "jwks_url", "user_prefix"}``, at most 16. User ids get the prefix of their
            issuer, so that no issuer can sign tokens of another issuer's users; issuers that share their users have
            ``"same_users": true`` instead.
        jwks_refresh: Seconds between two fetches of an issuer's keys, ±10 %.
        jwks_cooldown: Seconds between two fetches that tokens with an unknown `kid` may cause.
        jwks_timeout: Seconds that a fetch may take. A handshake or refresh with an unknown `kid` waits for it.
        jwks_stale: Seconds that keys are used after the last fetch that succeeded.
        jwks_max_bytes: The largest set of keys.
        clock_leeway: Seconds that `iat` and `nbf` of a token may be ahead of the clock here. Expiry has no leeway.
        token_max_bytes: The largest token, in the handshake and in `session.refresh`.
        token_lifetime_max: Seconds that a token may still be valid; a longer one is refused. Revocations have to be
            kept for as long as tokens live. Without a limit if it is not set.
        revocations: Whether revocations of tokens are read from the broker. `off` is for brokers without streams:
            there a revoked token is accepted until it expires.
        revocations_max: Revocations in effect; more are kept as far as the broker keeps them, and logged.
        development: Whether a secret may be weak, or known from this repository. Such a gateway listens on this
            machine only.
        trace_clients: `link`: a client's `traceparent` becomes a link of a new trace. `continue`: its trace id is
            continued, for closed systems. Which traces are recorded is decided here in both cases.
        allowed_origins: Origins of web pages that may connect, separated by commas; ``*`` for any. Clients that
            send no Origin (not browsers) are not restricted.
        max_frame_bytes: The largest frame; past it the connection closes with 1009.
        trusted_proxies: Addresses or networks of the proxies in front, separated by commas. Their
            ``X-Forwarded-For`` is believed, so that limits count clients' addresses and not the proxies'.
        max_connections: Connections on this replica; more are refused with 503. Fewer are taken if the limit of open
            files is lower than ``max_connections`` + ``handshakes_max`` + ``descriptors_reserve``.
        max_connections_per_user: On this replica; past it the oldest is closed with 4503.
        handshakes_max: Opening handshakes at once (a quarter of the descriptors at most); past it the oldest that is
            not finished is aborted.
        handshakes_max_per_address: The same from one address. Trusted proxies are counted in ``handshakes_max`` only.
        connects_per_user, connects_per_user_burst: Connections a second that one user may open, and how many at
            once; more are refused with 429. 0 for no limit, also below.
        refusal_delay: Seconds that a refusal with 429 takes, to slow down clients that reconnect at once.
        connects_after_abuse: Connects of its user that a close with 4005 or 4500 costs.
        connects_per_address, connects_per_address_burst: The same from one address (IPv6: one /64).
        groups_per_connection: Groups that services may subscribe one connection to; more are left out and logged.
        read_turn: Seconds of one iteration of the event loop that parsing the bytes of all clients may take.
        read_share: The same for one connection; the rest of its bytes waits for a later iteration.
        rate_per_connection, burst_per_connection: Messages a second of one connection in the long run, and at once;
            past it they are answered ``rate_limited``. A message counts as much as its action weighs (1, unless its
            service says more), and one more for each 16 KiB. 0 for no limit, also below.
        rate_per_user, burst_per_user: The same for all connections of one user on this replica.
        rate_per_address, burst_per_address: The same for all connections from one address on this replica.
        refusal_cost: Tokens that a `rate_limited` of a service costs its user: one that goes on is refused by the
            gateway, which costs the broker and the service nothing. 0 for none.
        rate_strikes: Refusals of one connection in a minute; past it the connection closes with 4005.
        rate_rest: Seconds that a connection is not read after a refusal, so that its sender is slowed down.
        inflight_per_connection: Requests of one connection that are not answered yet, by weight: that of the action,
            and one more for each 4 KiB; more are ``busy``.
        inflight_per_user: The same for all connections of one user on this replica.
        inflight_paced: Unanswered requests of a user, by weight, past which its connections are read only as answers
            come.
        inflight_pause: Seconds after which such a connection is read on without an answer.
        inflight_patience: Seconds after which a request without an answer counts no more.
        answers_remembered: Requests of one connection whose answer is known to be sent, so that it is sent once.
        domain_absence: Seconds that a domain whose service has lost its queue is answered `unavailable`; after that
            there is no such service, and the answer is `unknown_action`.
        send_buffer_bytes: Bytes that may wait to be written to one connection; past it the connection closes with
            4001.
        send_buffer_total_bytes: Bytes that may wait to be written to all connections together; past it the one that
            holds most closes with 4001.
        heartbeat: Seconds between pings.
        heartbeat_timeout: Seconds after a ping until a silent connection closes with 4002.
        open_timeout: Seconds for the opening handshake, and before it for that of TLS.
        close_timeout: Seconds for the closing handshake.
        expiry_notice: Seconds between ``session.expiring`` and the expiry of the token.
        max_violations: Unreadable frames in a minute; past it the connection closes with 4500.
        drain_step: Connections that are closed together when the replica stops. Steps are 100 to 300 ms apart, or
            less, so that all are done within ``drain_timeout``.
        retry_after: Advice to those who are refused or closed, in seconds.
        retry_spread: Seconds over which the advised reconnects of clients are spread when the replica stops.
        alive_interval: Seconds between two `session.alive`, the announcements of this replica to services.
        probe_interval: Seconds between two probes: messages that the replica sends itself through the broker.
        probe_timeout: Seconds for a probe to return; past it the link to the broker is rebuilt, unless other messages
            arrive meanwhile. Interval plus timeout bound how long a lost inbox stays undetected.
        resync_step: Sessions that are resumed and announced again together after the inbox was recreated; the
            next ones follow once the broker has confirmed these.
        prefetch: Maximum of unsettled messages (each a batch) from the broker.
        routing: `everything`: all pushes reach every replica. `selective`: pushes to single users reach only the
            replicas where they are connected, which pays with several replicas and many such pushes.
        routing_binds_per_second: Bindings that are made or removed in a second at most. A cluster may manage only a
            few hundred for all replicas together.
        routing_bindings_max: Maximum number of connected users with a binding each; with more users the catch-alls
            are bound again. When a replica dies, publishers wait until RabbitMQ has removed its bindings.
        routing_linger: Seconds that a binding stays after its user has disconnected.
        routing_calm: Seconds that the catch-alls stay after the start, after a loss of the broker, and after
            bindings could not keep up with new connections.
        routing_settle: Seconds until a new binding counts as known to all nodes of a cluster. A connecting
            client waits for so long, unless the catch-alls are bound.
    """

    host: Word = "127.0.0.1"
    port: Port = 8080
    admin_port: Port = 8081
    gateway_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_:-]{1,64}$")] = Field(
        default_factory=lambda: f"gw-{secrets.token_hex(5)}"
    )
    tls_certificate: Word | None = None
    tls_key: Word | None = None
    tls_check: Seconds = 10.0
    auth_secret: Word | None = None
    auth_secret_previous: Word | None = None
    auth_public_key: str | None = None
    auth_jwks_url: Annotated[Word, AfterValidator(jwks_url)] | None = None
    auth_issuer: Word | None = None
    auth_audience: Annotated[Word, Field(min_length=1)] = AUDIENCE
    auth_issuers: Annotated[str, AfterValidator(_issuers)] = ""
    jwks_refresh: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    jwks_cooldown: Annotated[float, Field(ge=1, le=86_400)] = 10.0
    jwks_timeout: Annotated[float, Field(gt=0, le=60)] = 3.0
    jwks_stale: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0
    jwks_max_bytes: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024
    clock_leeway: Annotated[float, Field(ge=0, le=3600)] = 10.0
    token_max_bytes: Annotated[int, Field(ge=256, le=1024 * 1024)] = 8192
    token_lifetime_max: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    revocations: Annotated[str, Field(pattern="^(on|off)$")] = "on"
    revocations_max: Annotated[int, Field(ge=1)] = 50_000
    development: bool = False
    trace_clients: Annotated[str, Field(pattern="^(link|continue)$")] = "link"
    allowed_origins: Annotated[str, AfterValidator(_origins)] = ""
    max_frame_bytes: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = 64 * 1024
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = ""
    max_connections: Annotated[int, Field(ge=1)] = 50_000
    max_connections_per_user: Annotated[int, Field(ge=1)] = 20
    handshakes_max: Annotated[int, Field(ge=1)] = 2_000
    handshakes_max_per_address: Annotated[int, Field(ge=1)] = 1_000
    connects_per_user: Rate = 5.0
    connects_per_user_burst: Burst = 60.0
    refusal_delay: Annotated[float, Field(ge=0, le=4)] = 0.5
    connects_after_abuse: Annotated[float, Field(ge=0)] = 50.0
    connects_per_address: Rate = 200.0
    connects_per_address_burst: Burst = 10_000.0
    groups_per_connection: Annotated[int, Field(ge=1)] = 10_000
    read_turn: Annotated[float, Field(gt=0, le=1)] = 0.004
    read_share: Annotated[float, Field(gt=0, le=1)] = 0.002
    rate_per_connection: Rate = 200.0
    burst_per_connection: Burst = 2_000.0
    rate_per_user: Rate = 200.0
    burst_per_user: Burst = 2_000.0
    rate_per_address: Rate = 4_000.0
    burst_per_address: Burst = 20_000.0
    refusal_cost: Annotated[float, Field(ge=0, le=1_000)] = 20.0
    rate_strikes: Annotated[int, Field(ge=1)] = 200
    rate_rest: Annotated[float, Field(gt=0, le=10)] = 0.05
    inflight_per_connection: Annotated[int, Field(ge=1)] = 256
    inflight_per_user: Annotated[int, Field(ge=1)] = 256
    inflight_paced: Annotated[int, Field(ge=1)] = 64
    inflight_pause: Annotated[float, Field(gt=0, le=10)] = 0.1
    inflight_patience: Seconds = 30.0
    answers_remembered: Annotated[int, Field(ge=1, le=10_000)] = 32
    domain_absence: Seconds = 60.0
    send_buffer_bytes: Annotated[int, Field(ge=64 * 1024)] = 4 * 1024 * 1024
    send_buffer_total_bytes: Annotated[int, Field(ge=1024 * 1024)] = 32 * 1024 * 1024
    heartbeat: Seconds = 25.0
    heartbeat_timeout: Seconds = 20.0
    open_timeout: Seconds = 5.0
    close_timeout: Seconds = 5.0
    expiry_notice: Seconds = 60.0
    max_violations: Annotated[int, Field(ge=1)] = 100
    drain_step: Annotated[int, Field(ge=1)] = 200
    retry_after: Seconds = 2.0
    retry_spread: Annotated[float, Field(ge=0, le=86_400)] = 2.0
    alive_interval: Seconds = 5.0
    probe_interval: Seconds = 8.0
    probe_timeout: Seconds = 5.0
    resync_step: Annotated[int, Field(ge=1, le=10_000)] = 500
    prefetch: Annotated[int, Field(ge=1, le=10_000)] = 256
    routing: Annotated[str, Field(pattern="^(everything|selective)$")] = "everything"
    routing_binds_per_second: Annotated[float, Field(ge=1, le=10_000)] = 500.0
    routing_bindings_max: Annotated[int, Field(ge=1)] = 5_000
    routing_linger: Seconds = 60.0
    routing_calm: Seconds = 10.0
    routing_settle: Annotated[float, Field(ge=0, le=10)] = 0.1
