"""The HTTP interface: its paths, and the order in which a request is checked.

503 (too many requests, no broker), 401 (key), 429 (rate), 415, 411, 413, 408 (body), 400 and 422 (content), then item
by item: rights, publish, confirm. Guarantees: nothing of a body is read before its key is known; every refusal is a
problem (:mod:`~towpath.ingress.problems`); 202 is sent only after RabbitMQ has confirmed every item.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from towpath.ingress import bodies, items, publishing
from towpath.ingress.idempotency import (
    HEADER,
    LENGTH_MAX,
    PATTERN,
    Fingerprints,
    fingerprint,
    msg_id_of,
    read_key,
)
from towpath.ingress.items import NewEnvelope, NewPush, Outgoing, Rejected
from towpath.ingress.keys import Key, KeyRing
from towpath.ingress.permits import Permits
from towpath.ingress.problems import (
    MEDIA_TYPE,
    PROBLEM_OF,
    Accepted,
    Kind,
    Problem,
    ProblemDocument,
    Result,
    Status,
)
from towpath.ingress.settings import IngressSettings
from towpath.servicekit.broker.interface import Broker, BrokerState
from towpath.servicekit.runtime.buckets import Buckets, Rate
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

VERSION: Final = "1.0"
_DESCRIPTION: Final = """\
Publishes events of other backends to Towpath's services, and pushes to users, with RabbitMQ's confirm.

An event takes effect once for each API key and `msg_id` within 24 hours. A client that gets no answer, or `503`,
sends the same request again, with the same `Idempotency-Key` or the same `msg_id` in each item.
"""

#: Makes the publication of one item: its text, the key, the default ``msg_id``.
Make = Callable[..., Outgoing]


class Ingress:
    """The parts that requests share.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        broker: Broker,
        keys: KeyRing,
        settings: IngressSettings,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._keys = keys
        self._settings = settings
        self._clock = clock
        self._rates = Buckets[str](Rate(settings.rate_per_key, settings.burst_per_key))
        self._fingerprints = Fingerprints(settings.idempotency_max, settings.idempotency_retention)
        self._permits = Permits(broker, settings.domain_refused_for, clock)
        self._results = {
            status: telemetry.counter("ingress_items", "Items by their result", {"result": status})
            for status in Status
        }

    def authorize(self, credentials: HTTPAuthorizationCredentials | None) -> Key:
        """The key of a request, whose rate is charged for one item.

        Raises:
            Problem: 401, 429; 503 if RabbitMQ takes nothing now.
        """
        key = self._keys.find(credentials.credentials) if credentials is not None else None
        if key is None:
            raise Problem(
                Kind.UNAUTHORIZED, "Send Authorization: Bearer <key>; `towpath-ingress key` makes one."
            )
        self._charge(key, 1)
        if self._broker.state is not BrokerState.READY:
            # Before the body is read: the client sends it again in any case.
            raise self._unavailable("RabbitMQ is not reachable, or takes no messages for now.")
        return key

    async def take(self, request: Request, key: Key, idempotency_key: str | None, make: Make) -> Response:
        """Publish the items of a request, and answer.

        Raises:
            Problem
        """
        settings = self._settings
        body = await bodies.read_body(request, settings)
        texts, is_array = bodies.split(body, settings)
        if len(texts) > 1:
            self._charge(key, len(texts) - 1)
        results: list[Result | None] = []
        outgoing: list[Outgoing] = []
        for position, text in enumerate(texts):
            msg_id = msg_id_of(idempotency_key, position if is_array else None) if idempotency_key else None
            try:
                outgoing.append(make(text, key, msg_id, nesting_max=settings.nesting_max))
                results.append(None)
            except Rejected as rejected:
                results.append(Result(status=rejected.status, detail=rejected.detail))
        if idempotency_key is not None and outgoing:
            # Only now: a body that was refused as a whole may be corrected.
            self._remember(request.url.path, key, idempotency_key, body)
        published = iter(
            await publishing.publish(self._broker, self._permits, key.name, outgoing, settings.publish_window)
            if outgoing
            else []
        )
        return self._answer([next(published) if result is None else result for result in results])

    def _charge(self, key: Key, items: int) -> None:
        wait = self._rates.of(key.name, now := self._clock()).take(items, now)
        if wait:
            rate = self._settings.rate_per_key
            raise Problem(
                Kind.RATE_LIMITED, f"More than {rate:g} items a second in the long run.", retry_after=wait
            )

    def _remember(self, path: str, key: Key, idempotency_key: str, body: bytes) -> None:
        try:
            found = fingerprint(path, msgspec.json.decode(body))
        except (msgspec.DecodeError, RecursionError) as error:
            raise Problem(Kind.BAD_REQUEST, f"The body is not JSON: {error}.") from None
        self._fingerprints.check(key.name, idempotency_key, found, self._clock())

    def _answer(self, results: Sequence[Result]) -> Response:
        for result in results:
            self._results[result.status].add(1)
        written = [result.model_dump(mode="json", exclude_none=True) for result in results]
        accepted = sum(result.status is Status.ACCEPTED for result in results)
        if accepted:
            status = 202 if accepted == len(results) else 207
            return Response(msgspec.json.encode({"results": written}), status, media_type=bodies.JSON)
        raise self._refusal(results, written)

    def _refusal(self, results: Sequence[Result], written: Sequence[Mapping[str, Any]]) -> Problem:
        """The problem of a request without an accepted item: one that a repetition may solve goes first."""
        kinds = [PROBLEM_OF[result.status] for result in results]
        kind = next((kind for kind in (Kind.UNAVAILABLE, Kind.UNROUTABLE) if kind in kinds), kinds[0])
        first = results[kinds.index(kind)]
        detail = (first.detail or "") if len(results) == 1 else f"No item was accepted. {first.detail}"
        retry_after = self._settings.retry_after if kind is Kind.UNAVAILABLE else None
        return Problem(kind, detail, retry_after=retry_after, results=written)

    def _unavailable(self, detail: str) -> Problem:
        return Problem(Kind.UNAVAILABLE, detail, retry_after=self._settings.retry_after)


#: The scheme of the OpenAPI document; a missing header is a problem of ours, not of FastAPI's.
_BEARER: Final = HTTPBearer(auto_error=False, scheme_name="apiKey", description="`<name>.<secret>`")


def build(ingress: Callable[[], Ingress]) -> FastAPI:
    """The application.

    Args:
        ingress: Returns the shared parts; not called for the OpenAPI document.
    """
    app = FastAPI(
        title="Towpath ingress",
        version=VERSION,
        description=_DESCRIPTION,
        docs_url=None,  # the page would load its scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
    )

    async def authorized(  # async: a plain function would run in a thread
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> Key:
        return ingress().authorize(credentials)

    Caller = Annotated[Key, Depends(authorized)]  # an alias
    IdempotencyKey = Annotated[  # as above
        str | None,
        Header(
            alias=HEADER,
            min_length=1,
            max_length=LENGTH_MAX,
            description="The same key with the same body has its effect once within 24 hours; a UUID is a good one. "
            "It decides the `msg_id` of each item that has none of its own.",
            examples=["8e03978e-40d5-43dd-bc93-6894a57f9324"],
            json_schema_extra={"pattern": PATTERN},
        ),
    ]

    @app.post("/v1/events", **_documented(NewEnvelope, "Publish events", "publishEvents"))
    async def post_events(request: Request, key: Caller, _: IdempotencyKey = None) -> Response:
        """One event or an array of them, published in their order."""
        idempotency_key = read_key(request.headers.getlist(HEADER))
        return await ingress().take(request, key, idempotency_key, items.event)

    @app.post("/v1/push", **_documented(NewPush, "Push to users", "push"))
    async def post_push(request: Request, key: Caller, _: IdempotencyKey = None) -> Response:
        """One push or an array of them; each reaches the connections that its user has now, and is not stored."""
        idempotency_key = read_key(request.headers.getlist(HEADER))
        return await ingress().take(request, key, idempotency_key, items.push)

    _answer_with_problems(app)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]  # FastAPI's way to extend it
    return app


class Door:
    """Lets ``requests_max`` requests in at the same time; the others are answered 503.

    Attributes:
        inside: Requests that are handled now.
    """

    def __init__(self, app: ASGIApp, settings: IngressSettings) -> None:
        self._app = app
        self._settings = settings
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.inside >= self._settings.requests_max:
            problem = Problem(
                Kind.UNAVAILABLE,
                f"{self.inside} requests are handled already.",
                retry_after=self._settings.retry_after,
            )
            await _respond(problem)(scope, receive, send)
            return
        self.inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self.inside -= 1


def _respond(problem: Problem) -> Response:
    return Response(problem.body, problem.status, problem.headers, media_type=MEDIA_TYPE)


def _answer_with_problems(app: FastAPI) -> None:
    """Every refusal, also FastAPI's own, is a problem."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return _respond(error)

    async def of_routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = dict(error.headers or {})
            return _respond(
                Problem(Kind.METHOD_NOT_ALLOWED, f"{request.method[:20]}: use POST.", headers=allowed)
            )
        shown = request.url.path[:100]
        return _respond(Problem(Kind.NOT_FOUND, f"{shown!r}: there are /v1/events and /v1/push."))

    async def gone(_: Request, error: Exception) -> Response:
        return Response()  # the listener drops it: there is no connection

    async def of_header(_: Request, error: Exception) -> Response:
        # The only declared parameter.
        return _respond(Problem(Kind.BAD_REQUEST, f"{HEADER} must have 1 to {LENGTH_MAX} characters."))

    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("request_failed", exc_info=error)
        return _respond(Problem(Kind.INTERNAL, "The outcome is unknown: send the same request again."))

    app.add_exception_handler(Problem, ours)
    app.add_exception_handler(bodies.Gone, gone)
    app.add_exception_handler(HTTPException, of_routing)
    app.add_exception_handler(_validation_error(), of_header)
    app.add_exception_handler(Exception, unexpected)


def _validation_error() -> type[Exception]:
    from fastapi.exceptions import RequestValidationError

    return RequestValidationError


def _documented(model: type[BaseModel], summary: str, operation: str) -> dict[str, Any]:
    """The description of a path in the OpenAPI document."""
    item = _reference(model)
    many = {"type": "array", "items": item, "minItems": 1}
    problem = {"content": {MEDIA_TYPE: {"schema": _reference(ProblemDocument)}}}
    refusals = {
        400: "Not JSON, or no Idempotency-Key",
        401: "No API key, or an unknown one",
        403: "The API key does not allow it",
        408: "The request did not arrive in time",
        409: "No service receives this event, or no gateway runs",
        411: "No Content-Length",
        413: "Too many bytes, or too many items",
        415: "Not application/json",
        422: "An item is not valid, or the Idempotency-Key was used for another body",
        429: "Over the rate of this key",
        431: "Too many bytes of headers",
        503: "RabbitMQ is away, or the ingress is busy",
    }
    return {
        "summary": summary,
        "operation_id": operation,
        "status_code": 202,
        "response_class": Response,
        "responses": {
            202: {"description": "RabbitMQ has confirmed every item", **_json(Accepted)},
            207: {"description": "Some are accepted; each item has its result", **_json(Accepted)},
            **{status: {"description": text, **problem} for status, text in refusals.items()},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {bodies.JSON: {"schema": {"anyOf": [item, many]}}},
            }
        },
    }


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"content": {bodies.JSON: {"schema": _reference(model)}}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. FastAPI reads no body here, so the models of bodies are added."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        models: list[type[BaseModel]] = [NewEnvelope, NewPush, Accepted, ProblemDocument]
        _, found = models_json_schema(
            [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
        )
        document["components"]["schemas"] = found["$defs"]
        app.openapi_schema = document
    return app.openapi_schema
