"""``towpath-gateway``."""

from typing import NoReturn

from towpath.gateway.app import serve
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.run import run


def main() -> NoReturn:
    run("gateway", serve, GatewaySettings)


if __name__ == "__main__":
    main()
