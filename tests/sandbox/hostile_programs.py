"""Programs that try to take more than their share, learn what is not theirs, or get out.

A program's `solve()` returns "held" when the wall stopped it; being killed or failing counts as held as well. Each runs
with SECONDS of time and MEMORY_MB of memory.
"""

SECONDS = 1.5
MEMORY_MB = 128

RESOURCES = {
    "fork bomb": "import os\ndef solve():\n    while True:\n        os.fork()",
    "fork once": "import os\ndef solve():\n    return 'escaped' if os.fork() >= 0 else 'held'",
    "vfork through libc": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).fork() < 0 else 'escaped'",
    "clone3": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).syscall(435, 0, 0) < 0 else 'escaped'",
    "posix_spawn": "import os\ndef solve():\n    os.posix_spawn('/bin/true', ['true'], {})\n    return 'escaped'",
    "subprocess": "import subprocess\ndef solve():\n    subprocess.run(['/bin/true'])\n    return 'escaped'",
    "multiprocessing": (
        "import multiprocessing\ndef solve():\n    p = multiprocessing.Process(target=print)\n    p.start()\n    return 'escaped'"
    ),
    "os.system": "import os\ndef solve():\n    return 'held' if os.system('true') != 0 else 'escaped'",
    "thread bomb": (
        "import threading, time\ndef solve():\n    try:\n        for _ in range(5000):\n"
        "            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "    except (RuntimeError, MemoryError):\n        return 'held'\n    return 'escaped'"
    ),
    "descriptors": (
        "import os\ndef solve():\n    try:\n        for _ in range(5000):\n            os.open('/dev/null', 0)\n"
        "    except OSError:\n        return 'held'\n    return 'escaped'"
    ),
    "memory by list": "def solve():\n    return 'escaped' if [0] * 10 ** 9 else ''",
    "memory by growth": "def solve():\n    x = []\n    while True:\n        x.append(bytearray(1 << 20))",
    "memory by numpy": "import numpy\ndef solve():\n    numpy.ones(10 ** 9)\n    return 'escaped'",
    "memory by shared mapping": "import mmap\ndef solve():\n    mmap.mmap(-1, 1 << 30)\n    return 'escaped'",
    "memfd": "import os\ndef solve():\n    os.memfd_create('x')\n    return 'escaped'",
    "memfd_secret": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).syscall(447, 0) < 0 else 'escaped'",
    "SysV shared memory": (
        "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) < 0 else 'escaped'"
    ),
    "POSIX shared memory": (
        "from multiprocessing import shared_memory\ndef solve():\n    shared_memory.SharedMemory(create=True, size=1 << 20)\n"
        "    return 'escaped'"
    ),
    "/dev/shm": "def solve():\n    open('/dev/shm/aflow-test', 'w').write('x')\n    return 'escaped'",
    "one large file": (
        "def solve():\n    with open('big', 'wb') as file:\n        for _ in range(4096):\n            file.write(bytes(1 << 20))\n"
        "    return 'escaped'"
    ),
    "sparse file": "import os\ndef solve():\n    os.truncate(os.open('big', os.O_CREAT | os.O_RDWR), 1 << 40)\n    return 'escaped'",
    "stdout flood": "def solve():\n    while True:\n        print('x' * 100_000)",
    "stderr flood": "import sys\ndef solve():\n    while True:\n        sys.stderr.write('x' * 100_000)",
    "flood of descriptor 1": "import os\ndef solve():\n    while True:\n        os.write(1, b'x' * 100_000)",
    "flood of the channel": "import os\ndef solve():\n    while True:\n        for fd in range(3, 12):\n            try:\n                os.write(fd, b'xx' * 100_000)\n            except OSError:\n                pass",
    "loop": "def solve():\n    while True:\n        pass",
    "loop on import": "while True:\n    pass",
    "loop in C": "def solve():\n    return sum(range(10 ** 13))",
    "regular expression": "import re\ndef solve():\n    return re.match('(a+)+$', 'a' * 60 + 'b')",
    "power": "def solve():\n    return 9 ** 9 ** 9 % 7",
    "sleep": "import time\ndef solve():\n    time.sleep(60)",
    "stop itself": "import os, signal\ndef solve():\n    os.kill(os.getpid(), signal.SIGSTOP)\n    import time\n    time.sleep(60)",
    "ignores every signal": (
        "import signal\ndef solve():\n    for number in range(1, 64):\n        try:\n            signal.signal(number, signal.SIG_IGN)\n"
        "        except (OSError, ValueError):\n            pass\n    while True:\n        pass"
    ),
    "catches everything": "def solve():\n    while True:\n        try:\n            while True:\n                pass\n        except BaseException:\n            pass",
    "recursion": "def solve():\n    return solve()",
    "recursion without limit": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef solve():\n    return [solve()]",
    "crash": "import ctypes\ndef solve():\n    ctypes.string_at(0)",
    "compile bomb": "def solve():\n    return eval('(' * 10 ** 6 + ')' * 10 ** 6)",
    "huge stdout at the end": "def solve():\n    print('x' * 10 ** 7)\n    return 'held'",
    "huge exception": "def solve():\n    raise ValueError('x' * 10 ** 7)",
    "raises a limit": (
        "import resource\ndef solve():\n    for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):\n"
        "        soft, hard = resource.getrlimit(limit)\n        try:\n            resource.setrlimit(limit, (hard * 2, hard * 2))\n"
        "            return 'escaped'\n        except (ValueError, OSError):\n            pass\n    return 'held'"
    ),
    "locks memory": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).mlockall(3) else 'escaped'",
}

# Each returns whatever it could find; the invariant is that no secret is in it.
SECRETS = {
    "environment": "import os\ndef solve():\n    return dict(os.environ)",
    "environment through libc": (
        "import ctypes\ndef solve():\n    e = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\n"
        "    return [e[i] for i in range(50) if e[i]] if e[0] else []"
    ),
    "every /proc/*/environ": (
        "import glob\ndef solve():\n    found = b''\n    for path in glob.glob('/proc/*/environ'):\n        try:\n"
        "            found += open(path, 'rb').read()\n        except OSError:\n            pass\n    return found"
    ),
    "every /proc/*/cmdline": (
        "def solve():\n    found = b''\n    for pid in range(1, 40000):\n        try:\n"
        "            found += open(f'/proc/{pid}/cmdline', 'rb').read()\n        except OSError:\n            pass\n    return found"
    ),
    "parent's memory": (
        "import os\ndef solve():\n    found = []\n    for pid in (os.getppid(), 1):\n        try:\n"
        "            found.append(open(f'/proc/{pid}/maps').read())\n        except OSError as error:\n            found.append(str(error))\n"
        "    return found"
    ),
    "process_vm_readv": (
        "import ctypes, os\ndef solve():\n    return 'held' if ctypes.CDLL(None).process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) < 0 else 'escaped'"
    ),
    "ptrace": "import ctypes, os\ndef solve():\n    return 'held' if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) < 0 else 'escaped'",
    "inherited descriptors": (
        "import os\ndef solve():\n    found = []\n    for fd in range(200):\n        try:\n"
        "            found.append((fd, os.pread(fd, 1000, 0)))\n        except OSError:\n            pass\n    return found"
    ),
    "own memory": (
        "import gc\ndef solve():\n    return [value for thing in gc.get_objects() if type(thing) is dict\n"
        "            for value in list(thing.values()) if type(value) is str and 'secret' in value.lower()][:20]"
    ),
    "secret file": "def solve():\n    return open({secret_file!r}).read()",
    "secret file's folder": "import os\ndef solve():\n    return os.listdir(os.path.dirname({secret_file!r}))",
    "/etc/shadow": "def solve():\n    open('/etc/shadow').read()\n    return 'escaped'",
    "/etc/passwd": "def solve():\n    open('/etc/passwd').read()\n    return 'escaped'",
    "home of the user": "import os\ndef solve():\n    return 'escaped' if '.bashrc' in os.listdir('/root') else 'held'",
    "this project": "import os\ndef solve():\n    os.listdir({project!r})\n    return 'escaped'",
    "hard link to a secret": "import os\ndef solve():\n    os.link({secret_file!r}, 'mine')\n    return open('mine').read()",
    "symbolic link to a secret": "import os\ndef solve():\n    os.symlink({secret_file!r}, 'mine')\n    return open('mine').read()",
    "climbing out of scratch": "def solve():\n    return open('../../../../../..' + {secret_file!r}).read()",
    "host name": "import os\ndef solve():\n    return 'held' if os.uname().nodename else 'escaped'",
}

ESCAPES = {
    "socket tcp": "import socket\ndef solve():\n    socket.create_connection(('127.0.0.1', {port}), 1)\n    return 'escaped'",
    "socket udp": "import socket\ndef solve():\n    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n    return 'escaped'",
    "socket ipv6": "import socket\ndef solve():\n    socket.socket(socket.AF_INET6)\n    return 'escaped'",
    "socket unix": "import socket\ndef solve():\n    socket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket')\n    return 'escaped'",
    "socket abstract": "import socket\ndef solve():\n    socket.socket(socket.AF_UNIX).bind('\\0aflow')\n    return 'escaped'",
    "socket netlink": "import socket\ndef solve():\n    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\n    return 'escaped'",
    "socket raw": "import socket\ndef solve():\n    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n    return 'escaped'",
    "socket vsock": "import socket\ndef solve():\n    socket.socket(40, socket.SOCK_STREAM)\n    return 'escaped'",
    "datagram pair": "import socket\ndef solve():\n    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n    return 'escaped'",
    "descriptor passing": (
        "import socket\ndef solve():\n    a, b = socket.socketpair()\n    socket.send_fds(a, [b'x'], [0])\n    return 'escaped'"
    ),
    "url": "import urllib.request\ndef solve():\n    urllib.request.urlopen('http://127.0.0.1:{port}/')\n    return 'escaped'",
    "exec": "import os\ndef solve():\n    os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "user namespace": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).unshare(0x10000000) else 'escaped'",
    "mount namespace": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).unshare(0x20000) else 'escaped'",
    "mount": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0) else 'escaped'",
    "umount": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).umount2(b'/', 2) else 'escaped'",
    "chroot": "import os\ndef solve():\n    os.chroot('.')\n    return 'escaped'",
    "become root": "import os\ndef solve():\n    os.setuid(0)\n    return 'held' if os.getuid() else 'escaped'",
    "change group": "import os\ndef solve():\n    os.setgroups([0])\n    return 'escaped'",
    "device file": "import os, stat\ndef solve():\n    os.mknod('disk', stat.S_IFBLK | 0o600, os.makedev(254, 0))\n    return 'escaped'",
    "core_pattern": "def solve():\n    open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/true')\n    return 'escaped'",
    "sysrq": "def solve():\n    open('/proc/sysrq-trigger', 'w').write('x')\n    return 'escaped'",
    "kill everything": "import os\ndef solve():\n    os.kill(-1, 9)\n    return 'held'",
    "kill the parent": "import os\ndef solve():\n    os.kill(os.getppid(), 9)\n    return 'held'",
    "kill the group": "import os\ndef solve():\n    os.killpg(0, 9)\n    return 'held'",
    "kill every number": (
        "import os\ndef solve():\n    for pid in range(2, 70000):\n        try:\n            os.kill(pid, 9)\n"
        "            return 'escaped' if pid != os.getpid() else 'held'\n        except OSError:\n            pass\n    return 'held'"
    ),
    "signal through tgkill": (
        "import ctypes, os\ndef solve():\n    p = os.getppid()\n    return 'held' if ctypes.CDLL(None).syscall(234, p, p, 9) else 'escaped'"
    ),
    "limits of the parent": (
        "import resource, os\ndef solve():\n    resource.prlimit(os.getppid() or 2, resource.RLIMIT_NOFILE, (1, 1))\n    return 'escaped'"
    ),
    "write to the interpreter": "import os\ndef solve():\n    open(os.path.join(os.path.dirname(os.__file__), 'x.py'), 'w')\n    return 'escaped'",
    "write to the root": "def solve():\n    open('/evil', 'w')\n    return 'escaped'",
    "write to /var/tmp": "def solve():\n    open('/var/tmp/aflow-evil', 'w')\n    return 'escaped'",
    "write to /home": "import os\ndef solve():\n    os.makedirs('/home/aflow-evil')\n    return 'escaped'",
    "set-user-id file": (
        "import os\ndef solve():\n    open('x', 'w').write('')\n    os.chmod('x', 0o4755)\n    return 'held' if os.getuid() else 'escaped'"
    ),
    "keyring": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).syscall(250, 0, -3, 1) < 0 else 'escaped'",
    "io_uring": "import ctypes\ndef solve():\n    b = ctypes.create_string_buffer(200)\n    return 'held' if ctypes.CDLL(None).syscall(425, 4, b) < 0 else 'escaped'",
    "bpf": "import ctypes\ndef solve():\n    b = ctypes.create_string_buffer(200)\n    return 'held' if ctypes.CDLL(None).syscall(321, 0, b, 72) < 0 else 'escaped'",
    "userfaultfd": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).syscall(323, 1) < 0 else 'escaped'",
    "open by handle": "import ctypes\ndef solve():\n    b = ctypes.create_string_buffer(200)\n    return 'held' if ctypes.CDLL(None).syscall(304, 3, b, 0) < 0 else 'escaped'",
    "personality": "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).personality(0x40000) < 0 else 'escaped'",
    "x32 system call": (
        "import ctypes\ndef solve():\n    return 'held' if ctypes.CDLL(None).syscall(0x40000000 + 41, 2, 1, 0) < 0 else 'escaped'"
    ),
    "poison the next job's modules": "import math\nmath.sqrt = lambda n: 'poison'\ndef solve():\n    return 'held'",
    "poison the next job's scratch": "def solve():\n    open('poison.py', 'w').write('x')\n    open('math.py', 'w').write('x')\n    return 'held'",
    "poison byte code": (
        "import os, glob\ndef solve():\n    for path in glob.glob(os.path.dirname(os.__file__) + '/__pycache__/*.pyc')[:3]:\n"
        "        open(path, 'r+b')\n        return 'escaped'\n    return 'held'"
    ),
}
