"""``towpath-notifications``."""

from typing import NoReturn

from towpath.notifications.app import serve
from towpath.notifications.settings import NotificationsSettings
from towpath.servicekit import run


def main() -> NoReturn:
    run("notifications", serve, NotificationsSettings)


if __name__ == "__main__":
    main()
