"""The host's side: the zygote process, and the jobs it forks."""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from aflow_jax.sandbox.guest.wire import FRAME_LIMIT, NODE_LIMIT, WireError, frame_length, load_message, send_bytes
from aflow_jax.sandbox.results import SandboxUnavailable

_START_SECONDS = 60.0
_MARK_LIMIT = 3 * NODE_LIMIT
_BOOT = """
import sys
sys.path.insert(0, {room!r})
from guest.zygote import main
sys.path[0:1] = []
main({control}, {settings!r})
"""
# A BLAS thread pool would not survive the fork, and each job has one core at most.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Each arena reserves 64 MiB of address space, which is what a job's memory is counted by.
    "MALLOC_ARENA_MAX": "1",
}


class BackendRefused(SandboxUnavailable):
    """The machine refuses a step of building the walls."""


class DeadlineError(Exception):
    """The job's time ran out."""


class ClosedError(Exception):
    """The job ended, or broke the rules of the channel: nothing more comes from it."""


class Job:
    """One forked process in its sandbox: a channel for frames and a lifeline whose closing kills it."""

    def __init__(self, channel: socket.socket, lifeline: socket.socket):
        self.channel = channel
        self.lifeline = lifeline
        self._received = bytearray()

    def await_walls(self) -> None:
        """Waits until the job is walled in. Nothing untrusted has run before that, so a failure is the sandbox's.

        Raises:
            SandboxUnavailable: the walls could not be put up; the message says which.
        """
        try:
            fault = self.receive(time.monotonic() + _START_SECONDS)["walls"]
        except (DeadlineError, ClosedError) as error:
            raise SandboxUnavailable("the sandbox died or hung before its job began") from error
        if fault is not None:
            raise SandboxUnavailable(f"the sandbox could not wall its job in: {fault}")

    def send(self, message: dict[str, Any], deadline: float) -> None:
        """Sends a message.

        Raises:
            ClosedError: the job is gone.
            DeadlineError: it does not read.
            WireError: the message is too long.
        """
        self.send_body(json.dumps(message).encode(), deadline)

    def send_body(self, body: bytes, deadline: float) -> None:
        """Sends a frame's body as it is."""
        self.channel.settimeout(max(deadline - time.monotonic(), 1e-6))
        try:
            send_bytes(self.channel, body)
        except TimeoutError as error:
            raise DeadlineError from error
        except OSError as error:
            raise ClosedError from error

    def has_spoken(self) -> bool:
        """Whether something of the job's is waiting to be received. Its end is nothing said."""
        if self._received:
            return True
        waiting = select.poll()
        waiting.register(self.channel, select.POLLIN)
        try:
            return bool(waiting.poll(0)) and bool(self.channel.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def receive_body(self, deadline: float) -> bytes:
        """The next frame's body. Raises DeadlineError, or ClosedError when the job ended or broke the rules."""
        try:
            return self._take(frame_length(self._take(4, deadline)), deadline)
        except WireError as error:
            raise ClosedError(str(error)) from error

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next frame as a message. Its items are bounded before it is parsed, so that memory here is."""
        body = self.receive_body(deadline)
        try:
            if body.count(b",") + body.count(b"[") + body.count(b"{") > _MARK_LIMIT:
                raise WireError(f"a message of more than {_MARK_LIMIT} items")
            return load_message(body)
        except WireError as error:
            raise ClosedError(str(error)) from error

    def _take(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            self.channel.settimeout(max(deadline - time.monotonic(), 1e-6))
            try:
                part = self.channel.recv(min(FRAME_LIMIT, 1 << 18))
            except TimeoutError as error:
                raise DeadlineError from error
            except OSError as error:
                raise ClosedError from error
            if not part:
                raise ClosedError
            self._received += part
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def kill(self) -> None:
        """Orders the job's death. May be called from any thread, more than once."""
        try:
            self.lifeline.shutdown(socket.SHUT_WR)
            self.channel.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already

    def end(self) -> int:
        """Kills what is left of the job and waits until nothing of it runs.

        Returns:
            Its exit status, negative for a signal.

        Raises:
            SandboxUnavailable: the zygote died, so that nothing the job said can be relied on.
        """
        self.kill()
        self.lifeline.settimeout(_START_SECONDS)
        try:
            told = self.lifeline.recv(4096)
        except OSError as error:
            raise SandboxUnavailable("the sandbox did not say how its job ended") from error
        finally:
            self.channel.close()
            self.lifeline.close()
        if not told:
            raise SandboxUnavailable("the sandbox died while its job was running")
        return json.loads(told)["status"]


class ZygoteProcess:
    """The zygote as its parent sees it. Safe to use from several threads.

    Attributes:
        first_uid: where it runs as root, the job in slot n has the user first_uid + n.
    """

    def __init__(self, settings: dict[str, Any]):
        """Starts it and waits until it is warm. Raises SandboxUnavailable when it does not come up."""
        self.owner = os.getpid()
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        boot = _BOOT.format(
            room=str(Path(__file__).parent),
            control=other.fileno(),
            settings=settings,
        )
        with other:
            self._process = subprocess.Popen(
                [*settings["launcher"], os.path.realpath(sys.executable), "-I", "-S", "-c", boot],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        self._await_ready()

    def _await_ready(self) -> None:
        self._control.settimeout(_START_SECONDS)
        try:
            message = self._control.recv(1 << 16)
        except OSError as error:
            self.close()
            raise SandboxUnavailable("the sandbox did not start in time") from error
        self._control.settimeout(None)
        if not message:
            why = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise SandboxUnavailable(f"the sandbox did not start: {why[-1] if why else 'no reason given'}")
        answer = json.loads(message)
        if "refused" in answer:
            self.close()
            raise BackendRefused(answer["refused"])
        self.first_uid = answer["first_uid"]

    @property
    def process_id(self) -> int:
        """The zygote's own number, or that of the process that waits for it behind a wall of namespaces."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether jobs can still be started on it."""
        ended = select.poll()  # select() itself refuses descriptors above 1023
        ended.register(self._control, select.POLLIN)
        return not ended.poll(0) and self._process.poll() is None

    def start(self, order: dict[str, Any]) -> Job:
        """Forks a job. Raises SandboxUnavailable when the zygote is gone."""
        channel, guest_channel = socket.socketpair()
        lifeline, guest_lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with guest_channel, guest_lifeline, self._lock:
            try:
                ends = [guest_channel.fileno(), guest_lifeline.fileno()]
                socket.send_fds(self._control, [json.dumps(order).encode()], ends)
            except OSError as error:
                channel.close()
                lifeline.close()
                raise SandboxUnavailable("the sandbox is gone") from error
        return Job(channel, lifeline)

    def close(self) -> None:
        """Ends it, with every job of it. Waits until it is gone."""
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stderr.close()
