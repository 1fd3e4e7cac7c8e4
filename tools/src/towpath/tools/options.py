"""The command line options of ``towpath dev``."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class Choice(enum.StrEnum):
    """Where the broker is to come from."""

    AUTO = "auto"
    MEMORY = "memory"
    RABBITMQ = "rabbitmq"


@dataclass(frozen=True, slots=True)
class Options:
    """See the module.

    Attributes:
        port, web_port: Where gateway and page are served.
        ingress_port: The ingress is served there, or on the next free port.
        data: The folder to keep things in.
        own: Services of one's own, see :mod:`towpath.tools.own_target`.
    """

    broker: Choice
    port: int
    web_port: int
    ingress_port: int
    data: Path
    own: Sequence[str] = ()
