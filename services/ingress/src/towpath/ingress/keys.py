"""API keys: who a caller is, and what it may send.

A key is ``<name>.<secret>``. The file has the name, the SHA-256 of the secret and the rights; the secret has 256
random bits, so no slow hash is needed (https://pages.nist.gov/800-63-4/sp800-63b.html#lookup-secrets). Guarantees:

* No secret is stored, logged or part of an error.
* Secrets are compared in constant time, also for a name that does not exist.
* A changed file takes effect within ``api_keys_check`` seconds; one that cannot be used changes nothing, and is
  logged.
* Several keys may have one name, so that a key can be replaced without a pause; they count as one sender.
"""

import asyncio
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NoReturn, Self

import structlog
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from towpath.protocol.envelope import ACTION_PATTERN, BARE_ACTIONS
from towpath.servicekit.runtime.settings import BadSetting

log = structlog.get_logger(__name__)

SETTING: Final = "TOWPATH_API_KEYS"
#: Events that only gateways and services publish; no key allows them.
RESERVED: Final = frozenset({"session", "service", "proof"})

_SECRET_BYTES: Final = 32
#: Far more than a key has; nothing longer is hashed.
_LONGEST: Final = 256
_UNKNOWN: Final = "0" * 64
_ALL: Final = "*"
_OWNER_ONLY: Final = 0o600
_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){0,2}\.\*")


def _pattern(value: str) -> str:
    is_action = re.fullmatch(ACTION_PATTERN[1:-1], value) is not None and value not in BARE_ACTIONS
    if value != _ALL and not is_action and not _PATTERN.fullmatch(value):
        raise ValueError(f"{value!r} is not a pattern of events: write order.paid, order.* or *")
    if value.partition(".")[0] in RESERVED:
        raise ValueError(f"{value!r}: only gateways and services publish these events")
    return value


class Key(BaseModel):
    """One entry of the file.

    Attributes:
        name: The sender (AMQP property ``app_id``) of all that is sent with this key.
        sha256: Of the secret, in hexadecimal digits.
        events: Events it may publish: ``order.paid``, ``order.*``, or ``*`` for all of all services.
        push: Whether it may push to users.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    events: tuple[Annotated[str, AfterValidator(_pattern)], ...] = ()
    push: bool = False

    def may_publish(self, action: str) -> bool:
        """Whether it may publish the event ``action``."""
        if action.partition(".")[0] in RESERVED:
            return False
        return any(
            pattern in (_ALL, action) or (pattern.endswith(".*") and action.startswith(pattern[:-1]))
            for pattern in self.events
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[Key], Field(max_length=10_000)]


class BadKeys(Exception):
    """The file of keys cannot be used; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one reading of the file."""

    by_name: dict[str, tuple[Key, ...]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; a missing one has no keys.

        Raises:
            BadKeys
        """
        by_name: dict[str, tuple[Key, ...]] = {}
        for key in _read(path):
            by_name[key.name] = (*by_name.get(key.name, ()), key)
        return cls(by_name)

    def find(self, presented: str) -> Key | None:
        """The key that ``presented`` (``<name>.<secret>``) is, if it is one."""
        name, _, secret = presented.partition(".")
        digest = hashlib.sha256(secret[:_LONGEST].encode("utf-8", "surrogatepass")).hexdigest()
        # A name without a key is compared as well: the time does not say which names exist.
        candidates = self.by_name.get(name) or (None,)
        found = None
        for key in candidates:
            if hmac.compare_digest(digest, key.sha256 if key is not None else _UNKNOWN):
                found = key
        return found


class KeyRing:
    """The keys that count now.

    Raises:
        BadSetting: The file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _state_of(path)
        try:
            self._keys = Keys.read(path)
        except BadKeys as error:
            raise BadSetting(SETTING, path, str(error)) from None
        if not self._keys.by_name:
            log.warning("no_api_keys", path=str(path), remedy="make one: towpath-ingress key --help")

    def find(self, presented: str) -> Key | None:
        """See :meth:`Keys.find`."""
        return self._keys.find(presented)

    async def watch(self, every: float) -> NoReturn:
        """Read the file again when it has changed, until cancelled."""
        while True:
            await asyncio.sleep(every)
            self.reload()

    def reload(self) -> None:
        """Read the file again if it has changed."""
        # Before it is read: if it changes meanwhile, the next check sees it.
        state = _state_of(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = Keys.read(self._path)
        except BadKeys as error:
            log.error("api_keys_not_reloaded", path=str(self._path), error=str(error))
        else:
            log.info("api_keys_reloaded", keys=sum(map(len, self._keys.by_name.values())))


def make(path: Path, name: str, events: tuple[str, ...], *, push: bool) -> str:
    """Add a new key to the file, and return it: ``<name>.<secret>``. It is stored nowhere.

    Raises:
        BadKeys: A name, a pattern or the file cannot be used.
    """
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    try:
        key = Key(name=name, sha256=digest, events=events, push=push)
    except ValidationError as error:
        raise BadKeys(_first_problem(error)) from None
    if not events and not push:
        raise BadKeys("the key would have no right: give it --events order.* or --push")
    _write(path, [*_read(path), key])
    return f"{name}.{secret}"


def _read(path: Path) -> list[Key]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeys(f"cannot be read: {error}") from None
    try:
        return _File.model_validate_json(text).keys
    except ValidationError as error:
        raise BadKeys(_first_problem(error)) from None


def _write(path: Path, keys: list[Key]) -> None:
    text = json.dumps({"keys": [key.model_dump(mode="json") for key in keys]}, indent=2) + "\n"
    try:
        # Beside it and then in its place: a reader never sees half of it.
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(beside).chmod(_OWNER_ONLY)
        Path(beside).replace(path)
    except OSError as error:
        raise BadKeys(f"{path} cannot be written: {error.strerror}") from None


def _first_problem(error: ValidationError) -> str:
    # Without the input, which may be a secret in the wrong place.
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"])) or "the file"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        # Through symbolic links: Kubernetes replaces a secret by changing one.
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
