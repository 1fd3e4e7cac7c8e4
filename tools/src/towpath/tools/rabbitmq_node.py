"""A private RabbitMQ node, for one person's machine and for tests.

Guarantees:

* It listens on 127.0.0.1 only, on ports that were free, with a random password, in a folder of its own.
* No epmd, no system service, no file outside the folder.
* A node whose folder is kept listens on the port of its last run again, unless another program has that now.
* It ends with us: on :meth:`RabbitNode.halt`, and also when this process is killed. The node reads its
  commands from our pipe, and the end of that pipe is the end of the node.
* A command takes milliseconds: it is evaluated inside the node, where ``rabbitmqctl`` starts its own Erlang.
"""

import asyncio
import collections
import contextlib
import fcntl
import os
import queue
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self
from urllib.parse import quote

from towpath.tools.packages import RABBITMQ, find_or_install
from towpath.tools.ports import same_or_free
from towpath.tools.trouble import Trouble

_NODE_NAME: Final = "towpath@localhost"
_ANSWER: Final = re.compile(r"^towpath-answer \{(\d+),\{(ok|error),(.*)\}\}$")
_BOOT_ATTEMPTS: Final = 3
_FOLDER_FREE_SECONDS: Final = 25.0
#: Bytes that quorum queues write before they begin a new log, as in Towpath's deployments (deploy/rabbitmq).
#: https://www.rabbitmq.com/docs/quorum-queues#resource-use
WAL_MAX_SIZE_BYTES: Final = 16_000_000

# One expression a line in, one answer a line out, until the pipe ends with the process that held it.
# While it boots, RabbitMQ looks into every module of every application it depends on, which loads them one by
# one. Loaded together beforehand, on all cores, they cost a fifth: a boot of 1.7 s on two cores, not 5.0 s.
_NODE_PROGRAM: Final = """
os:putenv("ERL_ZFLAGS", "EPMD_FLAGS"),
spawn(fun() ->
    Serve = fun(Next) ->
        case io:get_line("") of
            Line when is_list(Line) ->
                {ok, Tokens, _} = erl_scan:string(Line),
                Answer = case erl_parse:parse_exprs(Tokens) of
                    {ok, Expressions} ->
                        {value, Value, _} = erl_eval:exprs(Expressions, []),
                        Value;
                    {error, {_, Parser, Reason}} ->
                        [{integer, _, Number} | _] = tl(Tokens),
                        {Number, {error, lists:flatten(Parser:format_error(Reason))}}
                end,
                io:format("~ntowpath-answer ~0p~n", [Answer]),
                Next(Next);
            _ ->
                LAST_WORDS
        end
    end,
    Serve(Serve)
end),
Needed = fun Needed(Application, Found) ->
    _ = application:load(Application),
    case lists:member(Application, Found) orelse application:get_key(Application, applications) of
        {ok, Below} -> lists:foldl(Needed, [Application | Found], Below);
        _ -> Found
    end
end,
_ = code:ensure_modules_loaded(lists:append([
    Modules || Application <- Needed(rabbit, []), {ok, Modules} <- [application:get_key(Application, modules)]
])),
rabbit:boot(),
io:format("~ntowpath-answer {0,{ok,booted}}~n").
"""
# RabbitMQ may still write while its folder is removed.
_REMOVE_AND_HALT: Final = '[file:del_dir_r(os:getenv("HOME")) || _ <- lists:seq(1, 5)], erlang:halt(0)'
_STOP: Final = "timer:apply_after(20000, erlang, halt, [1]), catch rabbit:stop(), erlang:halt(0)"


class NodeFailed(Trouble):
    """RabbitMQ did not start, stop or carry out a command. The message ends with its last output."""


class FolderInUse(Trouble):
    """Another RabbitMQ runs in this folder."""


class RabbitControl(ABC):
    """Commands for a RabbitMQ that Towpath owns, however it was started.

    Attributes:
        user: The only user, with all permissions.
    """

    user: Final = "towpath"

    @abstractmethod
    def url(self, vhost: str = "/") -> str:
        """The AMQP URL of a virtual host, with the password."""

    @abstractmethod
    def evaluate(self, expression: str, *, timeout: float = 60.0) -> str:
        """Evaluate Erlang inside the node and return the value as text.

        Raises:
            NodeFailed: The expression failed, or gave no answer within ``timeout`` seconds.
        """

    async def add_vhost(self, name: str) -> str:
        """Create an empty virtual host, ours to use; returns its URL."""
        vhost, user, all_names = _binary(name), _binary(self.user), _binary(".*")
        await self._evaluate(
            f"begin ok = rabbit_vhost:add({vhost}, {user}), "
            f"rabbit_auth_backend_internal:set_permissions("
            f"{user}, {vhost}, {all_names}, {all_names}, {all_names}, {user}) end"
        )
        return self.url(name)

    async def allow_topics(self, vhost: str, exchange: str, pattern: str) -> None:
        """Let our user publish to ``exchange`` under routing keys that match ``pattern`` only.

        It holds for connections that are made later: a channel remembers what it was allowed.
        https://www.rabbitmq.com/docs/access-control#topic-authorisation
        """
        user = _binary(self.user)
        await self._evaluate(
            f"rabbit_auth_backend_internal:set_topic_permissions({user}, {_binary(vhost)}, {_binary(exchange)}, "
            f"{_binary(pattern)}, {_binary('.*')}, {user})"
        )

    async def import_definitions(self, document: str) -> None:
        """Add what ``document`` (JSON) defines: https://www.rabbitmq.com/docs/definitions"""
        await self._evaluate(f"ok = rabbit_definitions:import_raw({_binary(document)})")

    async def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all its queues; its connections are closed."""
        await self._evaluate(f"rabbit_vhost:delete({_binary(name)}, {_binary(self.user)})")

    async def stop_app(self) -> None:
        """Stop the broker inside the node: connections are closed, what is durable stays."""
        await self._evaluate("rabbit:stop()")

    async def start_app(self) -> None:
        """Start the broker again; it accepts connections when this returns."""
        await self._evaluate("rabbit:start()")

    async def set_memory_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm; while it is on, RabbitMQ blocks publishers."""
        # https://www.rabbitmq.com/docs/memory#configuring-threshold: 0 raises the alarm at once.
        mark = "0" if on else "element(2, application:get_env(rabbit, vm_memory_high_watermark))"
        # The second call is answered after the alarm was sent to every connection: later publishes are withheld.
        await self._evaluate(
            f"vm_memory_monitor:set_vm_memory_high_watermark({mark}), rabbit_alarm:get_alarms()"
        )

    async def _evaluate(self, expression: str) -> str:
        return await asyncio.to_thread(self.evaluate, expression)


@dataclass(frozen=True, slots=True)
class Member:
    """A node's place in a cluster of one machine.

    Each node has an address of its own, for without epmd all must listen for each other on the same port.

    Attributes:
        name: Such as ``r1@127.0.0.1``: a word, and the node's address.
        dist_port: Where the nodes of this cluster find each other; the same for all of them.
        peers: The names of all nodes, this one included.
        settings: Further lines of its ``rabbitmq.conf``.
        launcher: A command prefix for its program, such as ``ip netns exec r1``; by default none.
    """

    name: str
    dist_port: int
    peers: Sequence[str]
    settings: Sequence[str] = ()
    launcher: Sequence[str] = ()

    @property
    def address(self) -> str:
        """The IPv4 address that it listens on."""
        return self.name.rpartition("@")[2]


class RabbitNode(RabbitControl):
    """A RabbitMQ node of our own.

    Args:
        folder: Where it keeps its data from one run to the next; ``None`` is a temporary folder.
        program: The ``rabbitmq-server`` to run; by default the one found, or else installed.
        boot_timeout: Seconds until it must accept connections.
        member: Its place in a cluster; ``None`` is a node by itself.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        program: Path | None = None,
        boot_timeout: float = 60.0,
        member: Member | None = None,
    ) -> None:
        self._keep = folder is not None
        self._member = member
        self._name = _NODE_NAME if member is None else member.name
        self._address = "127.0.0.1" if member is None else member.address
        temporary = Path(tempfile.gettempdir()) / f"towpath-rabbitmq-{secrets.token_hex(6)}"
        self._folder = temporary if folder is None else folder.absolute()
        self._program = program
        self._boot_timeout = boot_timeout
        self._port = self._dist_port = 0
        #: The port of the run before, if another program has it now.
        self.lost_port: int | None = None
        self._password = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder_lock: IO[bytes] | None = None
        self._one_at_a_time = threading.Lock()
        self._asked = 0
        self._answers: queue.SimpleQueue[tuple[int, str, str] | None] = queue.SimpleQueue()
        self._said: collections.deque[str] = collections.deque(maxlen=40)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.boot)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.halt)

    @property
    def folder(self) -> Path:
        """Where its data, log and settings are."""
        return self._folder

    @property
    def port(self) -> int:
        """The AMQP port on its address (127.0.0.1, unless it is a member of a cluster)."""
        return self._port

    @property
    def running(self) -> bool:
        """Whether the node's process lives."""
        return self._process is not None and self._process.poll() is None

    def url(self, vhost: str = "/") -> str:
        """The AMQP URL of a virtual host, with the password."""
        return f"amqp://{self.user}:{self._password}@{self._address}:{self._port}/{quote(vhost, safe='')}"

    def boot(self) -> None:
        """Start the node and wait until it accepts connections; on the ports it had, if it was killed.

        Raises:
            ProgramMissing: There is no RabbitMQ and it could not be installed.
            FolderInUse: Another node runs in the same folder.
            NodeFailed: It ended, or did not accept connections in time.
        """
        program = self._program = self._program or find_or_install(RABBITMQ)
        if self._folder_lock is None:
            # A temporary folder that exists already is not ours.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=self._keep)
            self._lock_folder()
        try:
            for attempt in range(1, _BOOT_ATTEMPTS + 1):
                self._configure()
                self._launch(program)
                try:
                    self._await_boot()
                    return
                except NodeFailed as failure:
                    # Between our choice of a free port and its bind, another program may have taken it.
                    if attempt == _BOOT_ATTEMPTS or "eaddrinuse" not in str(failure):
                        raise
                    self.kill()
                    self._port = self._dist_port = 0
        except BaseException:
            self.halt()
            raise

    def halt(self) -> None:
        """Stop the node for sure; a temporary folder goes with it."""
        if self._keep and self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                # The end of its input stops the node in order, so that its data is complete; it halts by itself after
                # 20 s (`_STOP`).
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(25)
        self.kill()
        if self._folder_lock is not None:
            self._folder_lock.close()
            self._folder_lock = None
        if not self._keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    def pause(self) -> None:
        """Freeze the node (SIGSTOP): its sockets stay open, and nothing is read."""
        assert self._process is not None, "boot it first"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen node go on (SIGCONT)."""
        assert self._process is not None, "boot it first"
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the node at once, without a chance to say goodbye. It can be booted again, with what it had stored."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process = None

    def evaluate(self, expression: str, *, timeout: float = 60.0) -> str:
        """Evaluate Erlang inside the node; see :meth:`RabbitControl.evaluate`."""
        if self._process is None or self._process.stdin is None:
            raise NodeFailed("RabbitMQ is not running: boot it first.")
        if "\n" in expression:
            raise ValueError(f"An expression is one line: {expression!r}")
        with self._one_at_a_time:
            self._asked += 1
            # An error has to be an answer as well: an exception would end the loop that reads the next line.
            outcome = f"try {{ok, {expression}}} catch Kind:Reason -> {{error, {{Kind, Reason}}}} end"
            line = f"{{{self._asked}, {outcome}}}.\n"
            with contextlib.suppress(BrokenPipeError):  # the reader reports the end
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
            kind, value = self._answer(self._asked, timeout)
        if kind == "error":
            raise NodeFailed(f"RabbitMQ refused `{expression}`: {value}")
        return value

    async def start_app(self) -> None:
        """Start the broker again; it accepts connections when this returns."""
        await super().start_app()
        await asyncio.to_thread(self._await_port, time.monotonic() + self._boot_timeout)

    async def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` against this node and return what it printed (about half a second).

        Raises:
            NodeFailed: It ended with another status than 0.
        """
        return await asyncio.to_thread(self._ctl, *arguments)

    @property
    def ctl_command(self) -> list[str]:
        """The command ``rabbitmqctl`` for this node, for a program that runs it itself."""
        assert self._program is not None, "boot it first"
        environment = {**self._environment(), "ERL_ZFLAGS": self._starts_no_epmd()}
        ctl = self._program.with_name("rabbitmqctl")
        return [
            "env",
            "--ignore-environment",
            *(f"{name}={value}" for name, value in environment.items()),
            str(ctl),
        ]

    def _ctl(self, *arguments: str) -> str:
        ran = subprocess.run(  # noqa: S603  # the program beside the one we run
            [*self.ctl_command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=180,
            check=False,
        )
        if ran.returncode != 0:
            raise NodeFailed(
                f"`rabbitmqctl {' '.join(arguments)}` ended with {ran.returncode}: {ran.stderr.strip()}"
            )
        return ran.stdout

    def _lock_folder(self) -> None:
        # The node inherits the lock, so it keeps a second one out while that of a killed owner winds down.
        lock = (self._folder / "lock").open("ab")
        deadline = time.monotonic() + _FOLDER_FREE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise FolderInUse(
                        f"Another RabbitMQ runs in {self._folder}: stop the program that started it, "
                        "or use another folder."
                    ) from None
                time.sleep(0.1)
            else:
                self._folder_lock = lock
                return

    def _configure(self) -> None:
        password = self._folder / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_urlsafe(18))
        self._password = password.read_text()
        cookie = self._folder / ".erlang.cookie"  # Erlang's own choice of one can be guessed
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20))
            # Erlang refuses a cookie that others can read.
            cookie.chmod(0o400)
        if not self._port:
            self._port, self._dist_port = _free_ports(2)
            if self._keep and self._member is None:
                self._port = self._kept_port()
        lines = [
            f"listeners.tcp.1 = {self._address}:{self._port}",
            f"default_user = {self.user}",
            f"default_pass = {self._password}",
            "log.file.rotation.size = 10485760",
            "log.file.rotation.count = 1",
            f"raft.wal_max_size_bytes = {WAL_MAX_SIZE_BYTES}",
        ]
        if self._member is not None:
            self._dist_port = self._member.dist_port
            # https://www.rabbitmq.com/docs/cluster-formation#peer-discovery-classic-config
            lines += ["cluster_formation.peer_discovery_backend = classic_config"]
            lines += [
                f"cluster_formation.classic_config.nodes.{number} = {name}"
                for number, name in enumerate(self._member.peers, start=1)
            ]
            lines += self._member.settings
        configuration = self._folder / "rabbitmq.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("\n".join([*lines, ""]))
        (self._folder / "enabled_plugins").write_text("[].\n")
        (self._folder / "rabbitmq-env.conf").touch()  # else /etc/rabbitmq/rabbitmq-env.conf is read

    def _kept_port(self) -> int:
        """The port of the run before; if there was none, or another program has it, a new one for all later runs."""
        file = self._folder / "port"
        before = int(text) if file.exists() and (text := file.read_text().strip()).isdecimal() else None
        # Below the ports of outgoing connections, one of which would soon have it.
        port = same_or_free(before, first=20_000 + secrets.randbelow(10_000))
        self.lost_port = before if before != port else None
        file.write_text(str(port))
        return port

    def _no_epmd(self) -> str:
        # The node is found by its port; no epmd is asked (nothing listens on port 1) and none is started:
        # https://www.erlang.org/doc/apps/kernel/erl_epmd, https://www.rabbitmq.com/docs/networking#epmd
        return f"-start_epmd false -erl_epmd_port {self._dist_port}"

    def _starts_no_epmd(self) -> str:
        # rabbitmqctl, and every minute the node itself (rabbit_epmd_monitor), run another Erlang whose one
        # purpose is to start epmd; it takes these flags from its environment.
        return f"{self._no_epmd()} -dist_listen false"

    def _environment(self) -> dict[str, str]:
        ours = {
            "HOME": str(self._folder),  # holds the Erlang cookie
            "ERL_EPMD_PORT": "1",
            "ELIXIR_ERL_OPTIONS": "+fnu",
            # Else the node is started with -noinput, and its input is how it gets our commands.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_NODE_ONLY": "1",  # our own program boots it
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_USE_LONGNAME": "false" if self._member is None else "true",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_LOGS": str(self._folder / "rabbitmq.log"),
            "RABBITMQ_UPGRADE_LOG": str(self._folder / "rabbitmq-upgrade.log"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-noshell {'-sname' if self._member is None else '-name'} {self._name} {self._no_epmd()} "
                f"-kernel inet_dist_use_interface {{{self._address.replace('.', ',')}}}"
            ),
        }
        # Without the settings of another RabbitMQ on this machine.
        theirs = {
            name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))
        }
        return theirs | ours

    def _launch(self, program: Path) -> None:
        assert self._folder_lock is not None
        node_program = _NODE_PROGRAM.replace("LAST_WORDS", _STOP if self._keep else _REMOVE_AND_HALT)
        node_program = node_program.replace("EPMD_FLAGS", self._starts_no_epmd())
        self._asked = 0
        self._answers = queue.SimpleQueue()
        self._said.clear()
        self._process = subprocess.Popen(  # noqa: S603  # found in known places
            [*(() if self._member is None else self._member.launcher), program, "-eval", node_program],
            env=self._environment(),
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[self._folder_lock.fileno()],
            start_new_session=True,  # Ctrl-C is for us; we stop the node when its clients are done
        )
        assert self._process.stdout is not None
        threading.Thread(
            target=self._read, args=(self._process.stdout, self._answers), name="rabbitmq-node", daemon=True
        ).start()

    def _read(self, output: IO[bytes], answers: "queue.SimpleQueue[tuple[int, str, str] | None]") -> None:
        with output:
            for raw in output:
                line = raw.decode("utf-8", "replace").rstrip()
                if answer := _ANSWER.match(line):
                    answers.put((int(answer[1]), answer[2], answer[3]))
                elif line:
                    self._said.append(line)
        # The end of the output is the end of the node: a question that waits fails at once.
        answers.put(None)

    def _answer(self, number: int, timeout: float) -> tuple[str, str]:
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise NodeFailed(
                    f"RabbitMQ did not answer within {timeout:g} s.\n{self._last_words()}"
                ) from None
            if answer is None:
                # For the next question, which would wait for its whole timeout.
                self._answers.put(None)
                raise NodeFailed(f"RabbitMQ ended by itself.\n{self._last_words()}")
            if answer[0] == number:  # else it answers a question that we gave up on
                return answer[1], answer[2]

    def _await_boot(self) -> None:
        deadline = time.monotonic() + self._boot_timeout
        self._answer(0, self._boot_timeout)
        self._await_port(deadline)

    def _await_port(self, deadline: float) -> None:
        while True:
            try:
                socket.create_connection((self._address, self._port), timeout=1.0).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise NodeFailed(
                        f"RabbitMQ accepts no connection on {self._address}:{self._port}: {error}.\n"
                        f"{self._last_words()}"
                    ) from None
                time.sleep(0.02)

    def _last_words(self) -> str:
        log = self._folder / "rabbitmq.log"
        logged = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([*self._said, *logged[-30:]])


def _binary(text: str) -> str:
    return f"<<{','.join(str(byte) for byte in text.encode())}>>"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        # All are held until all ports are known, or one port could be found twice.
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
