"""The walls around a job. Which ones is settled by the parent; what is missing is an error, never left out quietly.

backend      files                     processes            user             memory, CPU, files    calls
namespaces   own root, own scratch     own pid namespace    own uid if root  rlimits, sized tmpfs  seccomp
landlock     Landlock                  own uid, Landlock    own uid if root  rlimits, quota        seccomp
unsafe       everything is reachable   -                    -                rlimits, quota        -
"""

import contextlib
import mmap
import os
import pathlib
import resource
import tempfile
from typing import Any

from . import kernel
from .jail import SCRATCH, build_jail, mount_scratch
from .landlock import Fence
from .scratch import is_over_quota, remove_tree
from .seccomp import Filter

# Each slot of each zygote has a user of its own, so that limits by user bind and no job can signal another.
_UIDS, _UIDS_OF_CONTAINER, _UIDS_EACH = range(0x4000_0000, 0x7FFF_FF00), range(0x8000, 0xFF00), 256
_THREADS, _FILES, _FILE_BYTES = 128, 64, 16 << 20


class Unsafe:
    """Resource limits and a scratch folder, nothing else: only ever by explicit choice.

    Attributes:
        watches: whether the scratch folders have no size of their own, so that they are looked at while jobs run.
    """

    watches = True

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.base_memory = 0
        self.scratch: dict[int, str] = {}
        uids = uids_to_give() if os.getuid() == 0 else None
        self.counts_threads = uids is not None
        # Root of a container that has no other users is, to a job, like any user: it cannot give jobs their own.
        self.is_root = uids is not None
        self.first_uid = (uids or _UIDS)[_UIDS_EACH * os.getpid() % len(uids or _UIDS)]

    def measure(self) -> None:
        """Notes the address space of the warm interpreter: a job's limit is on top of it."""
        self.base_memory = _address_space()

    def fork(self, order: dict[str, Any]) -> int:
        """Forks the job's process. 0 in the child, whose order then names its scratch folder."""
        folder = tempfile.mkdtemp(prefix="sandbox-", dir=self.settings.get("scratch_root"))
        try:
            process = os.fork()
        except OSError:
            os.rmdir(folder)
            raise
        if process:
            self.scratch[process] = folder
        else:
            order["scratch"] = folder
        return process

    def is_over_quota(self, process: int) -> bool:
        """Whether the job's scratch folder holds more than it may."""
        return is_over_quota(self.scratch[process])

    def clear_up(self, process: int) -> None:
        """After the job's end: its scratch folder goes."""
        remove_tree(self.scratch.pop(process))

    def wall_in(self, order: dict[str, Any]) -> None:
        """In the job's process, before it reads its job."""
        os.setsid()
        self._enter(order["scratch"])
        self._limit(order)

    def _count_threads_apart(self) -> None:
        """Without a user of its own: a user namespace, in which the job's threads are not counted with its owner's.

        Where that is refused the address space bounds the threads, by their stacks.
        """
        with contextlib.suppress(OSError):
            kernel.unshare(kernel.CLONE_NEWUSER)
            kernel.keep_capabilities()
            self.counts_threads = True

    def _enter(self, scratch: str) -> None:
        os.chdir(scratch)
        os.environ.update(HOME=scratch, TMPDIR=scratch)
        tempfile.tempdir = scratch
        os.umask(0o077)

    def _limit(self, order: dict[str, Any]) -> None:
        limits = {
            resource.RLIMIT_AS: self.base_memory + order["memory"],
            resource.RLIMIT_CPU: order["cpu"],
            resource.RLIMIT_FSIZE: _FILE_BYTES,
            resource.RLIMIT_NOFILE: _FILES,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_MEMLOCK: 0,
            resource.RLIMIT_MSGQUEUE: 0,
        }
        if self.counts_threads:
            limits[resource.RLIMIT_NPROC] = _THREADS
        for limit, value in limits.items():
            resource.setrlimit(limit, (value, value))


class Landlocked(Unsafe):
    """No namespaces: files by Landlock, signals by user and filter, everything else by the filter."""

    def __init__(self, settings: dict[str, Any]):
        super().__init__(settings)
        self.fence = Fence(settings["readable"], settings["devices"])
        # Landlock leaves modes, owners and times open. A user of its own closes them to a job, else the filter does.
        self.filter = Filter(own_user=self.is_root)
        # An interpreter in root's own home would be out of a job's reach, so that it could not import anything. The
        # capability to read lets it through; which trees it reads is Landlock's to say all the same.
        hidden = [path for path in settings["readable"] if not _open_to_others(path)] if self.is_root else []
        if hidden and not kernel.has_capability(kernel.CAP_DAC_READ_SEARCH):
            raise PermissionError(f"{hidden[0]} is not open to other users; install Python where it is")
        self.capabilities = (kernel.CAP_DAC_READ_SEARCH,) if hidden else ()

    def wall_in(self, order: dict[str, Any]) -> None:
        os.setsid()
        if self.is_root:
            uid = self.first_uid + order["slot"]
            os.chown(order["scratch"], uid, uid)
            _change_user(uid, *self.capabilities)
        else:
            self._count_threads_apart()
        self._enter(order["scratch"])
        self._limit(order)
        _settle()
        self.fence.put_on(order["scratch"])
        self.filter.put_on()


class Namespaced(Unsafe):
    """A root of its own for the zygote; for each job a process namespace, a mount namespace and a sized scratch."""

    watches = False

    def __init__(self, settings: dict[str, Any]):
        super().__init__(settings)
        self.processes = build_jail(settings["readable"], settings["devices"], unprivileged=not self.is_root)
        self.filter = Filter(own_user=True)  # a root of its own, read-only, serves as well

    def fork(self, order: dict[str, Any]) -> int:
        # The kernel makes a process namespace for the next child only from inside one's own.
        kernel.setns(self.processes, kernel.CLONE_NEWPID)
        kernel.unshare(kernel.CLONE_NEWPID)
        return os.fork()

    def is_over_quota(self, process: int) -> bool:
        """Never: the scratch is a mount of bounded size."""
        return False

    def clear_up(self, process: int) -> None:
        """Nothing is left: the scratch was mounted in the job's own namespace."""

    def wall_in(self, order: dict[str, Any]) -> None:
        os.setsid()
        if self.is_root:
            uid = self.first_uid + order["slot"]
            mount_scratch(uid, uid)
            _change_user(uid)
        else:
            mount_scratch(os.getuid(), os.getgid())
            kernel.keep_capabilities()
            self._count_threads_apart()
        self._enter(SCRATCH)
        self._limit(order)
        _settle()
        self.filter.put_on()


def uids_to_give() -> range | None:
    """Users that root may give to jobs: far from those of people, or high among those of its container."""
    with open("/proc/self/uid_map") as file:
        shown = [(int(first), int(count)) for first, _, count in map(str.split, file)]
    for uids in (_UIDS, _UIDS_OF_CONTAINER):
        if any(first <= uids.start and uids.stop <= first + count for first, count in shown):
            return uids
    return None


def _change_user(uid: int, *capabilities: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1 if capabilities else 0)
    os.setresuid(uid, uid, uid)
    kernel.keep_capabilities(*capabilities)


def _open_to_others(path: str) -> bool:
    folders = [path, *(str(parent) for parent in pathlib.Path(path).parents)]
    return all(os.stat(folder).st_mode & 0o5 for folder in folders)


def _address_space() -> int:
    # Found as the least limit under which a page more can be had: there is no /proc to ask behind a wall.
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    low, high = 0, 1 << 42
    while high - low > 1 << 20:
        middle = (low + high) // 2
        resource.setrlimit(resource.RLIMIT_AS, (middle, hard))
        try:
            mmap.mmap(-1, resource.getpagesize()).close()
        except (OSError, MemoryError):
            low = middle
        else:
            high = middle
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return high


def _settle() -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)


# Bubblewrap builds its wall around the zygote before the zygote starts; the jobs are told apart as without it.
BACKENDS = {"namespaces": Namespaced, "bubblewrap": Landlocked, "landlock": Landlocked, "unsafe": Unsafe}
