"""``towpath-inventory``."""

from typing import NoReturn

from towpath.inventory.app import serve
from towpath.inventory.settings import InventorySettings
from towpath.servicekit import run


def main() -> NoReturn:
    run("inventory", serve, InventorySettings)


if __name__ == "__main__":
    main()
