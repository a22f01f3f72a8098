"""The system call filter of a job: a small BPF program, built here.

What is denied: processes (threads may be made), programs, sockets, other processes' memory, mounts, namespaces, memory
that no limit counts, kernel interfaces with a history of holes, and signals to anybody else. Calls newer than the table
answer as if the kernel did not have them.
"""

import ctypes
import errno
import os
import struct

from . import kernel

# name: (x86_64, aarch64); -1 where the architecture does not have it
_DENIED = {
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "semget": (64, 190),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "inotify_init": (253, -1),
    "inotify_init1": (294, 26),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "seccomp": (317, 277),
    "personality": (135, 92),
    "modify_ldt": (154, -1),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "fanotify_init": (300, 262),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "vmsplice": (278, 75),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "vhangup": (153, 58),
    "uselib": (134, -1),
}
# Landlock says nothing on these, and a job with its owner's user could use them on any file of its owner's.
_DENIED_TO_OWNER = {
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKETPAIR, _SENDTO = (53, 199), (44, 206)
_SIGNALS = ((62, 129), (200, 130), (234, 131))  # kill, tkill, tgkill
_PRCTL, _PRLIMIT = (157, 167), (302, 261)
_FCNTL, _IOCTL = (72, 25), (16, 29)
# What makes the kernel send signals to, or keep, somebody else: F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY.
_FCNTL_DENIED = (8, 10, 15, 1024, 1026)
# TCGETS, TIOCGWINSZ (both asked by isatty and its kin), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_IOCTL_ALLOWED = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_NEWEST = 462
_SOMEBODY = 0xFACE_B00C  # stands for the job's own number until it is known
_FIRST_X32 = 0x4000_0000

_ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
_ALLOW, _KILL, _ERROR = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4
_CLONE_THREAD, _AF_UNIX, _SOCK_STREAM = 0x0001_0000, 1, 1
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_SECCOMP, _MODE_FILTER = 15, 16, 22, 2


def supported() -> bool:
    """Whether this machine's system call numbers are known here."""
    return os.uname().machine in _ARCHITECTURES


class Filter:
    """The filter, ready to be put on by each job."""

    def __init__(self, *, own_user: bool):
        """Takes whether each job has a user of its own, or else sees no file of its owner's that it could change."""
        self._column, self._architecture = _ARCHITECTURES[os.uname().machine]
        self._denied = _DENIED if own_user else _DENIED | _DENIED_TO_OWNER
        self._template = self._program(_SOMEBODY)

    def put_on(self) -> None:
        """Filters this process from now on, for good. Needs no_new_privs."""
        program = self._template.replace(struct.pack("I", _SOMEBODY), struct.pack("I", os.getpid()))
        buffer = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
        pointer = ctypes.create_string_buffer(header, len(header))
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(pointer))

    def _program(self, process: int) -> bytes:
        # BPF code for a process that knows itself by this number.
        lines = [
            (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
            (_EQUAL, 1, 0, self._architecture),
            (_RETURN, 0, 0, _KILL),
            (_LOAD, 0, 0, _NUMBER_OFFSET),
            (_AT_LEAST, 0, 1, _NEWEST + 1),
            (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
        ]
        for numbers in self._denied.values():
            lines += self._when(numbers, [_NO])
        lines += self._when(_CLONE3, [(_RETURN, 0, 0, _ERROR | errno.ENOSYS)])  # libc then uses clone
        lines += self._when(_CLONE, [_argument(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), *_YES_OR_NO])
        one_of_us = [_argument(0), (_EQUAL, 0, 1, process), *_YES_OR_NO]
        for numbers in _SIGNALS:
            lines += self._when(numbers, one_of_us)
        lines += self._when(_PRLIMIT, [_argument(0), (_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, process), *_YES_OR_NO])
        lines += self._when(
            _PRCTL, [_argument(0), (_EQUAL, 1, 0, _PR_SET_NAME), (_EQUAL, 0, 1, _PR_GET_NAME), *_YES_OR_NO]
        )
        for command in _FCNTL_DENIED:
            lines += self._when(_FCNTL, [_argument(1), (_EQUAL, 0, 1, command), _NO, (_LOAD, 0, 0, _NUMBER_OFFSET)])
        known = [(_EQUAL, len(_IOCTL_ALLOWED) - place, 0, code) for place, code in enumerate(_IOCTL_ALLOWED)]
        lines += self._when(_IOCTL, [_argument(1), *known, _NO, _YES])
        # Streams only: a datagram socket of a pair could be pointed at any other address.
        stream = [_argument(1), (_AND, 0, 0, 0xF), (_EQUAL, 0, 1, _SOCK_STREAM), *_YES_OR_NO]
        lines += self._when(_SOCKETPAIR, [_argument(0), (_EQUAL, 0, 4, _AF_UNIX), *stream])
        low, high = _argument(4), (_LOAD, 0, 0, 16 + 4 * 8 + 4)
        lines += self._when(_SENDTO, [low, (_EQUAL, 0, 3, 0), high, (_EQUAL, 0, 1, 0), *_YES_OR_NO])
        lines.append((_RETURN, 0, 0, _ALLOW))
        return b"".join(struct.pack("HBBI", *line) for line in lines)

    def _when(self, numbers: tuple[int, int], then: list[tuple[int, int, int, int]]) -> list:
        number = numbers[self._column]
        return [(_EQUAL, 0, len(then), number), *then] if number >= 0 else []


def _argument(place: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, 16 + 8 * place)


_YES, _NO = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERROR | errno.EPERM)
_YES_OR_NO = [_YES, _NO]
