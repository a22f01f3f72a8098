"""A root folder for the zygote and its jobs: Python, NumPy, SymPy and a few devices, read-only, and no /proc."""

import os
import socket
from collections.abc import Iterable

from . import kernel
from .scratch import SCRATCH_BYTES, SCRATCH_FILES

SCRATCH = "/scratch"
# The new root is put together here. The folder exists everywhere and nothing to be shown lies in it.
_SITE = "/proc"
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID


def build_jail(readable: Iterable[str], devices: Iterable[str], *, unprivileged: bool) -> int:
    """Moves this process into fresh namespaces with such a root. Returns in a child, the first of its namespace.

    The calling process stays behind only to wait for that child.

    Returns:
        A descriptor of the child's process namespace; it could not be opened behind the wall, where there is no /proc.

    Args:
        readable: files and folders to be shown at their own places.
        devices: device files, such as /dev/null.
        unprivileged: take a user namespace first, which gives the right to make the others.

    Raises:
        OSError: the kernel or a policy refuses; the message names the step.
    """
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(_NAMESPACES | (kernel.CLONE_NEWUSER if unprivileged else 0))
    if unprivileged:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    socket.sethostname("sandbox")
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _assemble([path for path in readable if os.path.exists(path)], list(devices))
    return namespace


def _assemble(readable: list[str], devices: list[str]) -> None:
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("none", _SITE, "tmpfs", quiet, "size=1m,mode=755")
    for path in readable:
        _show(path, kernel.MS_RDONLY | quiet)
    for path in devices:
        _show(path, kernel.MS_NOSUID | kernel.MS_NOEXEC)
    os.mkdir(_SITE + SCRATCH)
    if not os.path.lexists(_SITE + "/tmp"):
        os.symlink(SCRATCH, _SITE + "/tmp")
    kernel.become_root(_SITE)
    kernel.mount("none", "/", "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | quiet)


def _show(path: str, flags: int) -> None:
    place = _SITE + path
    if os.path.islink(path):  # /lib and its kin on a merged system
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if not os.path.lexists(place):
            os.symlink(os.readlink(path), place)
        return
    if os.path.isdir(path):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, place, "", kernel.MS_BIND | kernel.MS_REC)
    kernel.mount("none", place, "", kernel.MS_REMOUNT | kernel.MS_BIND | flags)


def mount_scratch(uid: int, gid: int) -> None:
    """In a job's process: a private folder of bounded size, gone with the job."""
    kernel.unshare(kernel.CLONE_NEWNS)
    options = f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES},mode=700,uid={uid},gid={gid}"
    kernel.mount("none", SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, options)
