"""Writes deploy/rabbitmq/definitions.json, the accounts and permissions on RabbitMQ without passwords: ``make docs``.

A test fails when it differs from the code.
"""

from pathlib import Path
from typing import Final

from towpath.tools.broker_setup import Wanted, public

FILE: Final = Path(__file__).parent.parent / "deploy/rabbitmq/definitions.json"

if __name__ == "__main__":
    FILE.write_text(public(Wanted()), encoding="utf-8")
