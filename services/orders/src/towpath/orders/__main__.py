"""``towpath-orders``."""

from typing import NoReturn

from towpath.orders.app import serve
from towpath.orders.settings import OrdersSettings
from towpath.servicekit import run


def main() -> NoReturn:
    run("orders", serve, OrdersSettings)


if __name__ == "__main__":
    main()
