"""Faults that a test causes in RabbitMQ, and RabbitMQ's queues, bindings and connections."""

import asyncio
import re
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from towpath.testkit.eventually import eventually
from towpath.tools.rabbitmq_node import RabbitControl

_NAMES = re.compile(r'<<"([^"]*)">>')


@dataclass(frozen=True, slots=True)
class Holdings:
    """Counts of one virtual host."""

    queues: int
    bindings: int
    connections: int
    channels: int

    def __str__(self) -> str:
        return (
            f"{self.queues} queues, {self.bindings} bindings, {self.connections} connections, "
            f"{self.channels} channels"
        )


class Broker:
    """One virtual host, seen and changed from inside the node: in milliseconds, and past all permissions."""

    def __init__(self, control: RabbitControl, url: str) -> None:
        self._control = control
        self._vhost = unquote(urlsplit(url).path[1:])

    async def queues(self, prefix: str = "") -> list[str]:
        """The names of the queues that begin with ``prefix``."""
        asked = f"[element(4, amqqueue:get_name(Q)) || Q <- rabbit_amqqueue:list({self._here})]"
        return sorted(name for name in _NAMES.findall(await self._evaluate(asked)) if name.startswith(prefix))

    async def length(self, queue: str) -> int:
        """How many messages wait in a queue, those in hand left out."""
        where = f"rabbit_misc:r({self._here}, queue, {_binary(queue)})"
        counted = await self._evaluate(
            f"begin {{ok, Q}} = rabbit_amqqueue:lookup({where}), "
            f"[{{messages_ready, N}}] = rabbit_amqqueue:info(Q, [messages_ready]), N end"
        )
        return int(counted)

    async def delete_queue(self, name: str) -> None:
        """Delete a queue, with or without consumers."""
        where = f"rabbit_misc:r({self._here}, queue, {_binary(name)})"
        await self._evaluate(
            f"begin {{ok, Q}} = rabbit_amqqueue:lookup({where}), "
            f'rabbit_amqqueue:delete(Q, false, false, <<"test">>) end'
        )

    async def delete_exchange(self, name: str) -> None:
        """Delete an exchange with all its bindings."""
        await self._evaluate(
            f"rabbit_exchange:delete(rabbit_misc:r({self._here}, exchange, {_binary(name)}), "
            f'false, <<"test">>)'
        )

    async def unbind(self, queue_prefix: str) -> int:
        """Remove all bindings of queues whose names begin so; returns how many there were."""
        length = len(queue_prefix)
        removed = await self._evaluate(
            f'length([rabbit_binding:remove(B, <<"test">>) || B <- rabbit_binding:list({self._here}), '
            f"element(4, element(2, B)) =/= <<>>, "
            f"binary:longest_common_prefix([element(4, element(4, B)), {_binary(queue_prefix)}]) =:= {length}])"
        )
        return int(removed)

    async def cancel_consumers(self, queue_prefix: str) -> int:
        """Make queues forget their consumers, without a notice; returns how many there were."""
        return await self._for_consumers(
            queue_prefix,
            # Of a quorum queue the command that a channel would send it, of a classic one the call.
            "case amqqueue:get_type(Q) of "
            "rabbit_quorum_queue -> ra:process_command(amqqueue:get_pid(Q), "
            "rabbit_fifo:make_checkout({Tag, Channel}, cancel, #{})); "
            '_ -> gen_server2:call(amqqueue:get_pid(Q), {basic_cancel, Channel, Tag, undefined, <<"test">>}) end',
        )

    async def end_channels(self, queue_prefix: str) -> int:
        """End the channels of consumers, without a notice; returns how many consumers there were."""
        return await self._for_consumers(queue_prefix, "rabbit_channel:shutdown(Channel)")

    async def _for_consumers(self, queue_prefix: str, expression: str) -> int:
        length = len(queue_prefix)
        return int(
            await self._evaluate(
                f"length([begin Channel = element(1, C), Tag = element(2, C), catch {expression} end "
                f"|| Q <- rabbit_amqqueue:list({self._here}), "
                f"binary:longest_common_prefix([element(4, amqqueue:get_name(Q)), {_binary(queue_prefix)}]) "
                f"=:= {length}, C <- rabbit_amqqueue:consumers(Q)])"
            )
        )

    async def close_connections(self) -> int:
        """Close all connections, as an operator may; returns how many there were."""
        return int(
            await self._evaluate(
                f'length([catch rabbit_networking:close_connection(P, "test") || '
                f"[{{pid, P}}, {{vhost, V}}] <- rabbit_networking:connection_info_all([pid, vhost]), "
                f"V =:= {self._here}])"
            )
        )

    async def forbid(self) -> None:
        """Take away the right to this virtual host; connections that are open are closed."""
        await self._evaluate(
            f'rabbit_auth_backend_internal:clear_permissions(<<"{self._control.user}">>, {self._here}, <<"test">>)'
        )
        await self.close_connections()

    async def allow(self) -> None:
        """Give the right back."""
        everything = ", ".join([_binary(".*")] * 3)
        await self._evaluate(
            f'rabbit_auth_backend_internal:set_permissions(<<"{self._control.user}">>, {self._here}, {everything}, '
            f'<<"test">>)'
        )

    async def set_disk_alarm(self, on: bool) -> None:
        """Raise or clear the disk alarm."""
        limit = "100000000000000000" if on else "1"
        await self._evaluate(f"rabbit_disk_monitor:set_disk_free_limit({limit})")

    async def set_memory_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm."""
        await self._control.set_memory_alarm(on)

    async def holdings(self) -> Holdings:
        """The current counts."""
        counted = await self._evaluate(
            f"begin Open = [P || [{{pid, P}}, {{vhost, V}}] <- "
            f"rabbit_networking:connection_info_all([pid, vhost]), V =:= {self._here}], "
            f"{{length(rabbit_amqqueue:list({self._here})), length(rabbit_binding:list({self._here})), "
            f"length(Open), length([1 || [{{connection, C}}] <- rabbit_channel:info_all([connection]), "
            f"lists:member(C, Open)])}} end"
        )
        return Holdings(*(int(number) for number in re.findall(r"\d+", counted)))

    async def returns_to(self, before: Holdings, *, timeout: float = 30.0) -> None:
        """Wait until it holds what it held before; of channels one more a connection, as some open when first used.

        Raises:
            AssertionError: It does not; with both.
        """

        async def is_back() -> bool:
            now = await self.holdings()
            spare = min(max(0, now.channels - before.channels), before.connections)
            assert replace(now, channels=now.channels - spare) == before, f"{now} is not {before}"
            return True

        await eventually(is_back, timeout=timeout, every=0.2)

    @property
    def _here(self) -> str:
        return _binary(self._vhost)

    async def _evaluate(self, expression: str) -> str:
        return await asyncio.to_thread(self._control.evaluate, expression)


def _binary(text: str) -> str:
    return f'<<"{text}">>'
