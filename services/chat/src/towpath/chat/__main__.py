"""``towpath-chat``."""

from typing import NoReturn

from towpath.chat.app import serve
from towpath.chat.settings import ChatSettings
from towpath.servicekit import run


def main() -> NoReturn:
    run("chat", serve, ChatSettings)


if __name__ == "__main__":
    main()
