"""The zygote: a clean interpreter that forks one process for each job.

It holds no key, no test and no expected value: a job's text goes from the parent straight to the forked process, over
the job's own channel. It runs no job itself.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from typing import Any

from .confine import BACKENDS, Unsafe
from .program import run_program
from .referee import referee
from .solution import serve_solution
from .wire import read_frame, write_frame

# What solutions import most, found in memory by every job.
_COMMON_MODULES = (
    *("bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools"),
    *("heapq", "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing"),
)
# A thread's stack counts as memory whole: of the usual 8 MiB a job of 512 could not have sixty.
_STACK_BYTES = 4 << 20
_CHANNEL, _HIGHEST_DESCRIPTOR = 3, 4096
_WATCH_SECONDS = 0.05
_JOBS = {"program": run_program, "solution": serve_solution, "referee": referee}


def main(control_descriptor: int, settings: dict[str, Any]) -> None:
    """Serves the parent until its end of the control socket closes, then kills every job and returns."""
    control = socket.socket(fileno=control_descriptor)
    sys.path.extend(settings["package_folders"])
    try:
        confinement = BACKENDS[settings["backend"]](settings)
    except OSError as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        return
    threading.stack_size(_STACK_BYTES)
    _warm_up(settings["packages"])
    confinement.measure()
    control.send(json.dumps({"first_uid": confinement.first_uid}).encode())
    Zygote(control, confinement).serve()


def _warm_up(packages: list[str]) -> None:
    for name in _COMMON_MODULES:
        importlib.import_module(name)
    if "numpy" in packages:
        import numpy

        numpy.linalg.det(numpy.eye(2))
    if "sympy" in packages:
        import sympy

        # Whatever is imported or cached on first use would be paid for by each job again.
        sympy.solve(sympy.Symbol("x") ** 2 - 1)
        sympy.simplify("sin(x)**2 + cos(x)**2")
    gc.collect()
    gc.freeze()  # keeps the collector of each job from touching, and so copying, these pages


def alone(channel: socket.socket) -> socket.socket:
    """Closes every descriptor but the job's channel, which becomes number 3.

    The zygote's wake-up pipe, read or filled by a job, would end the zygote, and with it the job's siblings.
    """
    os.dup2(channel.fileno(), _CHANNEL)
    os.closerange(_CHANNEL + 1, _HIGHEST_DESCRIPTOR)
    return socket.socket(fileno=_CHANNEL)


class Zygote:
    """Forks jobs, kills those whose lifeline is closed, tells how each ended."""

    def __init__(self, control: socket.socket, confinement: Unsafe):
        self.control = control
        self.confinement = confinement
        self.lifelines: dict[int, socket.socket] = {}  # by process id
        self.selector = selectors.DefaultSelector()
        self.nowhere = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def serve(self) -> None:
        """Runs until the control socket ends."""
        wake, waker = socket.socketpair()
        for end in (wake, waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self.selector.register(wake, selectors.EVENT_READ, None)
        self.selector.register(self.control, selectors.EVENT_READ, None)
        while True:
            watched = self.confinement.watches and self.lifelines
            for key, _ in self.selector.select(_WATCH_SECONDS if watched else None):
                if key.fileobj is self.control:
                    if not self.accept():
                        return
                elif key.fileobj is wake:
                    wake.recv(4096)
                else:
                    self.kill(key.data)
            self.reap()
            for process in self.lifelines:
                if self.confinement.is_over_quota(process):
                    os.kill(process, signal.SIGKILL)

    def accept(self) -> bool:
        """Starts the job that the parent asks for. False when the parent is gone."""
        message, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 2)
        if not message:
            for process in self.lifelines:
                os.kill(process, signal.SIGKILL)
            return False
        channel, lifeline = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        order = json.loads(message)
        try:
            process = self.confinement.fork(order)
        except OSError as error:  # no room for a process or a folder: this job's fault to tell, not its siblings' end
            write_frame(channel, {"walls": str(error)})
            channel.close()
            lifeline.close()
            return True
        if process == 0:
            self.run(channel, lifeline, order)
        channel.close()
        self.lifelines[process] = lifeline
        self.selector.register(lifeline, selectors.EVENT_READ, process)
        return True

    def run(self, channel: socket.socket, lifeline: socket.socket, order: dict[str, Any]) -> None:
        """The forked process: walls itself in, then reads its job. Never returns."""
        status = 1
        try:
            self.detach()
            try:
                self.confinement.wall_in(order)
            except OSError as error:
                write_frame(channel, {"walls": str(error)})
                return
            channel = alone(channel)
            # Said before any of the job is read: nobody but this code can say it.
            write_frame(channel, {"walls": None})
            _JOBS[order["kind"]](channel, read_frame(channel))
            status = 0
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the parent has what it wanted and closed the channel
        finally:
            os._exit(status)  # a forked process must not run on into the zygote's own loop

    def detach(self) -> None:
        """In the forked process: lets go of the zygote's signals and output."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (0, 1, 2):
            os.dup2(self.nowhere, descriptor)

    def kill(self, process: int) -> None:
        """The parent closed its end of the job's lifeline: its time is over."""
        self.selector.unregister(self.lifelines[process])
        os.kill(process, signal.SIGKILL)  # not reaped yet, so the number is still the job's

    def reap(self) -> None:
        """Collects ended jobs, clears up after them and says on the lifeline how they ended."""
        while self.lifelines:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            lifeline = self.lifelines.pop(process, None)
            if lifeline is None:
                continue
            if lifeline in self.selector.get_map():
                self.selector.unregister(lifeline)
            self.confinement.clear_up(process)
            with contextlib.suppress(OSError):  # the parent has closed its end already
                lifeline.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())
            lifeline.close()
