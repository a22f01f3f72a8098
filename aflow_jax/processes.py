"""How the processes of one run work together, besides what their devices send each other.

Every process runs the same program on the same settings and so starts the same device programs in the same order. The
rest goes over a connection of each process to the first one: what a process made of its share of the rollouts, who has
to stop, and, when a connection breaks, that a process is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Coroutine
from multiprocessing.connection import Client, Connection, Listener
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from aflow_jax.config.sections import DistributedSettings
from aflow_jax.errors import UserError
from aflow_jax.llm import BudgetExhausted

PEER_LOST = 7
"""Exit code of a process that ended because another one had."""

_FAREWELL = b"farewell"
_CONNECT_SECONDS = 120.0
_LEAVING_SECONDS = 60.0


class Processes:
    """The processes of a run; this class is what there is of them where there is only one.

    Attributes:
        index: this one's number, from 0; the first one alone writes the run folder.
        count: how many there are.
    """

    index = 0
    count = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.index == 0

    def owns(self, position: int) -> bool:
        """Whether the problem at this position of a batch is this process's to execute and grade."""
        return position % self.count == self.index

    async def share(self, work: Coroutine[Any, Any, Any]) -> list[Any]:
        """Do this process's part of some work; return every process's result, plain data, in their order.

        What stops one process (Ctrl-C, a spent budget, a user's mistake) stops all of them here, so that none waits for
        one that is gone.

        Raises:
            CancelledError, BudgetExhausted, UserError: the first process that has to stop.
        """
        return [await work]

    async def agree_on(self, what: str, value: object) -> None:
        """Make sure that all processes have a value of the same representation.

        Raises:
            UserError: they do not; `what` names it.
        """

        async def digest() -> str:
            return hashlib.sha256(repr(value).encode()).hexdigest()

        digests = await self.share(digest())
        if len(set(digests)) > 1:
            raise UserError(f"distributed: the processes differ in {what}: give all the same settings and files")

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, the same in all."""
        return flag

    def wait(self) -> None:
        """Return when every process is here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the run; where this process alone cannot go on, the others end too."""


def join_processes(settings: DistributedSettings | None) -> Processes:
    """Start or join the job that the settings describe, before JAX has touched a device.

    Raises:
        UserError: the job cannot be joined.
    """
    if settings is None:
        return Processes()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # A lost process is for `Group` to notice and to say; the runtime's own way is to abort with a page of its log. The
    # preemption service would take SIGTERM for itself.
    for name, value in (("jax_enable_recoverability", True), ("jax_enable_preemption_service", False)):
        if hasattr(jax.config, name):
            jax.config.update(name, value)
    try:
        jax.distributed.initialize(
            settings.coordinator,
            settings.processes,
            settings.process,
            initialization_timeout=settings.timeout,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"distributed: the processes do not come together ({reason}): start all of distributed.processes with the "
            "same distributed.coordinator host:port, each with its own distributed.process, or under SLURM's srun"
        ) from None
    if jax.process_count() == 1:
        return Processes()
    index, count = jax.process_index(), jax.process_count()
    return Group(index, count, _connect_all(index, count, settings.coordinator))


class Group(Processes):
    """A run of several processes: each has a connection to the first one, which passes on what it gets.

    A thread for each connection listens. Messages of a process come in the order in which it sent them, and all
    processes send as many, so the n-th message of each belongs to the same exchange.
    """

    def __init__(self, index: int, count: int, peers: dict[int, Connection]) -> None:
        """Make one of `count` processes: the first one has a connection to each other, the others one to it."""
        self.index, self.count, self._peers = index, count, peers
        self._changed = threading.Condition()
        self._arrived: dict[int, list[bytes]] = {process: [] for process in range(self.count)}
        self._lost: int | None = None
        self._leaving = self._stopping = False
        self._stop_later: BaseException | None = None
        self._listeners = [
            threading.Thread(target=self._listen, args=peer, name="peer", daemon=True) for peer in peers.items()
        ]
        for listener in self._listeners:
            listener.start()

    async def share(self, work: Coroutine[Any, Any, Any]) -> list[Any]:
        message: dict[str, Any]
        if self._stop_later is not None:
            work.close()
            message = _stop_message(self._stop_later)
        else:
            try:
                message = {"result": await work}
            except (asyncio.CancelledError, UserError) as stop:
                message = _stop_message(stop)
        exchange = asyncio.ensure_future(asyncio.to_thread(self._exchange, json.dumps(message).encode()))
        while not exchange.done():
            try:
                await asyncio.shield(exchange)
            except asyncio.CancelledError as stop:
                # The others already count on this process: it stops with them at the next exchange.
                self._stop_later = stop
        messages = [json.loads(part) for part in exchange.result()]
        for process, part in enumerate(messages):
            if "stop" in part:
                self._stopping = True
                raise _stop(part, process, own=process == self.index)
        return [part["result"] for part in messages]

    def any(self, flag: bool) -> bool:
        return any(json.loads(part) for part in self._exchange(json.dumps(bool(flag)).encode()))

    def wait(self) -> None:
        self.any(False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, (UserError, asyncio.CancelledError, KeyboardInterrupt)):
            # Often what the device says of a lost process: then that is told, and this process ended, in the meantime.
            self._wait_for_loss()
        self._leaving = True
        in_order = kind is None or self._stopping
        if in_order and not self.is_first:
            # While the first one is still there: the runtime aborts a process that cannot take its leave of it.
            jax.distributed.shutdown()
        for connection in self._peers.values():
            try:
                if in_order:
                    connection.send_bytes(_FAREWELL)
                else:
                    # Not closed, for that waits for the thread that listens on it.
                    _socket(connection).shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # that one has ended, too
        if in_order and self.is_first:
            for listener in self._listeners:
                listener.join(_LEAVING_SECONDS)

    def _wait_for_loss(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._lost is not None, timeout=5.0)

    def _exchange(self, message: bytes) -> list[bytes]:
        """Return every process's message, in the order of processes."""
        if self.is_first:
            everyone = [message, *(self._next(process) for process in range(1, self.count))]
            together = json.dumps([part.decode() for part in everyone]).encode()
            for connection in self._peers.values():
                connection.send_bytes(together)
            return everyone
        self._peers[0].send_bytes(message)
        return [part.encode() for part in json.loads(self._next(0))]

    def _next(self, process: int) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._arrived[process])
            return self._arrived[process].pop(0)

    def _listen(self, process: int, connection: Connection) -> None:
        """Take in what a process sends; when the connection breaks without a farewell, end this process."""
        try:
            while (message := connection.recv_bytes()) != _FAREWELL:
                with self._changed:
                    self._arrived[process].append(message)
                    self._changed.notify_all()
            return
        except (EOFError, OSError):
            pass
        with self._changed:
            self._lost = process
            self._changed.notify_all()
        if not self._leaving:
            # The main thread may wait for the lost process in a device program, from which nothing wakes it.
            end_for_lost_peer(process)


def end_for_lost_peer(process: int) -> None:
    """End this process at once, saying why: what others of the run were doing cannot go on without the lost one."""
    print(
        f"error: process {process} of this run has ended: see what it said, and start all of them with --resume latest",
        file=sys.stderr,
        flush=True,
    )
    os._exit(PEER_LOST)


def _connect_all(index: int, count: int, coordinator: str | None) -> dict[int, Connection]:
    """Connect every process to the first one; what that takes to know is told over the devices' own network."""
    key = np.frombuffer(secrets.token_bytes(32), np.uint8)
    listener = None
    if index == 0:
        listener = Listener(("", 0), backlog=count, authkey=key.tobytes())
    own = np.array([listener.address[1] if listener else 0], np.int32)
    name = (coordinator.rsplit(":", 1)[0] if coordinator else socket.getfqdn()).encode()
    padded = np.frombuffer(name.ljust(256, b"\0"), np.uint8)
    port, key, host = multihost_utils.broadcast_one_to_all((own, key, padded))
    if listener is None:
        address = (np.asarray(host, np.uint8).tobytes().rstrip(b"\0").decode(), int(port[0]))
        connection = _client(address, np.asarray(key, np.uint8).tobytes())
        _keep_alive(connection)
        connection.send_bytes(str(index).encode())
        return {0: connection}
    peers = {}
    while len(peers) < count - 1:
        connection = listener.accept()
        _keep_alive(connection)
        peers[int(connection.recv_bytes())] = connection
    listener.close()
    return dict(sorted(peers.items()))


def _client(address: tuple[str, int], key: bytes) -> Connection:
    give_up = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            return Client(address, authkey=key)
        except OSError as error:
            if time.monotonic() > give_up:
                raise UserError(
                    f"distributed: process 0 cannot be reached at {address[0]}:{address[1]} ({error.strerror}): give a "
                    "distributed.coordinator whose host name all machines know, and open its ports between them"
                ) from None
            time.sleep(0.2)


def _keep_alive(connection: Connection) -> None:
    """Have the kernel notice within a minute that the other machine is gone."""
    with _socket(connection) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                own.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _socket(connection: Connection) -> socket.socket:
    """Return the socket behind a connection, under a descriptor of its own."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def _stop_message(stop: BaseException) -> dict[str, str]:
    kinds = {asyncio.CancelledError: "cancelled", BudgetExhausted: "budget"}
    return {"stop": kinds.get(type(stop), "mistake"), "message": str(stop)}


def _stop(message: dict[str, str], process: int, *, own: bool) -> BaseException:
    said = message["message"] if own else f"process {process}: {message['message']}"
    kinds = {"cancelled": asyncio.CancelledError, "budget": BudgetExhausted, "mistake": UserError}
    return kinds[message["stop"]](said)
