"""Landlock: which files a job may reach, without any namespace (Linux 5.13 and later, asked for at run time)."""

import ctypes
import os
import struct
from collections.abc import Iterable

from . import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # how many of the rights' bits the kernel knows; 16 from 5 on
_REFER_AND_MAKE_DEVICES = (1 << 13) | (1 << 6) | (1 << 11)  # no hard links across folders, no device files
_TCP, _SCOPES = 0b11, 0b11


def version() -> int:
    """The kernel's Landlock version; 0 where it is absent or switched off."""
    try:
        return kernel.syscall(_CREATE_RULESET, 0, 0, _VERSION_FLAG)
    except OSError:
        return 0


class Fence:
    """A set of trees that may be read, opened once and used for every job."""

    def __init__(self, readable: Iterable[str], devices: Iterable[str]):
        self.version = version()
        self._all = (1 << _RIGHTS_BY_VERSION.get(self.version, 16)) - 1
        self._read = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in readable if os.path.isdir(path)]
        self._single = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in readable if os.path.isfile(path)]
        self._devices = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in devices]

    def put_on(self, scratch: str) -> None:
        """Fences this process in: reads in the given trees, anything in its scratch folder. Needs no_new_privs."""
        network = _TCP if self.version >= 4 else 0
        scopes = _SCOPES if self.version >= 6 else 0
        attributes = struct.pack("QQQ", self._all, network, scopes)
        size = 8 if self.version < 4 else 16 if self.version < 6 else 24
        ruleset = kernel.syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), size, 0)
        folder = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
        rules = [(tree, _READ_FILE | _READ_DIR | _EXECUTE) for tree in self._read]
        rules += [(file, _READ_FILE) for file in self._single]
        rules += [(device, _READ_FILE | _WRITE_FILE) for device in self._devices]
        rules.append((folder, self._all & ~_REFER_AND_MAKE_DEVICES))
        for descriptor, rights in rules:
            rule = ctypes.c_char_p(struct.pack("=Qi", rights, descriptor))
            kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        kernel.syscall(_RESTRICT_SELF, ruleset, 0)
        for descriptor in (ruleset, folder, *self._read, *self._single, *self._devices):
            os.close(descriptor)
