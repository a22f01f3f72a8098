"""Solutions that try to pass `TEST` without solving it. Each defines, or fails to define, `successor`."""

TEST = """
def check(candidate):
    assert candidate(1) == 2
    assert candidate(41) == 42
    assert candidate(-8) == -7
    assert candidate(2 ** 70) == 2 ** 70 + 1
"""

WRONG = "def successor(n):\n    return n\n"

FORGED = {
    "os._exit on import": "import os\nos._exit(0)",
    "os._exit in the call": "import os\ndef successor(n):\n    os._exit(0)",
    "SystemExit on import": "raise SystemExit(0)",
    "SystemExit in the call": "def successor(n):\n    raise SystemExit(0)",
    "sys.exit with an always-true code": "import sys\ndef successor(n):\n    sys.exit()",
    "exit at thread end": "import threading, os\ndef successor(n):\n    threading.Thread(target=os._exit, args=(0,)).start()",
    "atexit exit": "import atexit, os\natexit.register(os._exit, 0)\n" + WRONG,
    "KeyboardInterrupt": "def successor(n):\n    raise KeyboardInterrupt",
    "GeneratorExit": "def successor(n):\n    raise GeneratorExit",
    "StopIteration": "def successor(n):\n    raise StopIteration(n + 1)",
    "AssertionError is no pass": "def successor(n):\n    raise AssertionError",
    "an exception that claims everything": (
        'class Lie(Exception):\n    def __str__(self):\n        return \'{"verdict": {"passed": 4, "total": 4}}\'\n'
        "def successor(n):\n    raise Lie"
    ),
    "an exception whose text exits": (
        "import os\nclass Lie(Exception):\n    def __str__(self):\n        os._exit(0)\ndef successor(n):\n    raise Lie"
    ),
    "always-equal object": "class Equal:\n    def __eq__(self, other):\n        return True\ndef successor(n):\n    return Equal()",
    "always-equal with hash": (
        "class Equal:\n    def __eq__(self, other):\n        return True\n    def __hash__(self):\n        return 2\n"
        "def successor(n):\n    return Equal()"
    ),
    "int subclass with its own ==": (
        "class Equal(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
        "def successor(n):\n    return Equal(0)"
    ),
    "float subclass with its own ==": (
        "class Equal(float):\n    def __eq__(self, other):\n        return True\ndef successor(n):\n    return Equal(0)"
    ),
    "str subclass with its own ==": (
        "class Equal(str):\n    def __eq__(self, other):\n        return True\ndef successor(n):\n    return Equal('')"
    ),
    "list subclass with its own ==": (
        "class Equal(list):\n    def __eq__(self, other):\n        return True\ndef successor(n):\n    return Equal()"
    ),
    "reflected operators": (
        "class Equal:\n    __eq__ = __ne__ = __req__ = __bool__ = __le__ = __ge__ = lambda *a: True\n"
        "def successor(n):\n    return Equal()"
    ),
    "a class that lies about its class": (
        "class Equal:\n    __class__ = property(lambda self: int)\n    def __eq__(self, other):\n        return True\n"
        "def successor(n):\n    return Equal()"
    ),
    "metaclass equality": (
        "class Meta(type):\n    def __eq__(cls, other):\n        return True\n    def __hash__(cls):\n        return 2\n"
        "class Equal(metaclass=Meta):\n    pass\ndef successor(n):\n    return Equal"
    ),
    "__index__ and __int__": (
        "class Equal:\n    __index__ = __int__ = lambda self: 2\n    __eq__ = lambda self, other: True\n"
        "def successor(n):\n    return Equal()"
    ),
    "NotImplemented": "def successor(n):\n    return NotImplemented",
    "unittest.mock.ANY": "from unittest.mock import ANY\ndef successor(n):\n    return ANY",
    "numpy array broadcasts": "import numpy\ndef successor(n):\n    return numpy.array([True])",
    "numpy object scalar": (
        "import numpy\nclass Equal:\n    def __eq__(self, other):\n        return True\n"
        "def successor(n):\n    return numpy.array(Equal(), dtype=object)"
    ),
    "sympy symbol": "import sympy\ndef successor(n):\n    return sympy.Symbol('x')",
    "a proxy of its argument": "class Box:\n    def __init__(self, v):\n        self.v = v\ndef successor(n):\n    return Box(n + 1)",
    "frame walk for expected values": (
        "import sys\ndef successor(n):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()):\n            if 'assert' in str(value):\n"
        "                return eval(str(value).split(f'candidate({n}) ==')[1].splitlines()[0])\n"
        "        frame = frame.f_back\n    return None"
    ),
    "garbage collector for the test": (
        "import gc\ndef successor(n):\n    for thing in gc.get_objects():\n        if type(thing) is dict:\n"
        "            for value in list(thing.values()):\n                if type(value) is str and 'candidate(41)' in value:\n"
        "                    return 42\n    return None"
    ),
    "reads the test from its modules": (
        "import sys\ndef successor(n):\n    for module in list(sys.modules.values()):\n"
        "        for value in list(vars(module).values()):\n            if type(value) is str and 'candidate(41)' in value:\n"
        "                return 42\n    return None"
    ),
    "reads memory of its own": (
        "def successor(n):\n    data = open('/proc/self/mem', 'rb').read(10)\n    return n + 1 if b'candidate' in data else 0"
    ),
    "patched builtins": (
        "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.all = builtins.any = lambda *a: True\n"
        "builtins.abs = lambda n: 0\nbuiltins.isinstance = lambda *a: True\n" + WRONG
    ),
    "patched __build_class__ and print": "import builtins\nbuiltins.__build_class__ = builtins.print = None\n" + WRONG,
    "patched json": (
        'import json\njson.dumps = lambda *a, **k: \'{"verdict": {"passed": 4, "total": 4, "error": null}}\'\n' + WRONG
    ),
    "patched struct and socket": "import socket\nsocket.socket.sendall = lambda *a: None\n" + WRONG,
    "patched wire of its own process": (
        "import sys\nfor name, module in list(sys.modules.items()):\n    if name.endswith('wire'):\n"
        "        module.encode = lambda value, opaque: {'verdict': True}\n" + WRONG
    ),
    "patched check": "def check(candidate):\n    return True\n" + WRONG,
    "defines candidate": "candidate = lambda n: n + 1\n" + WRONG,
    "defines __tally__": (
        "class Tally:\n    passed = 4\n    def __getattr__(self, name):\n        return lambda *a: self\n__tally__ = Tally()\n"
        + WRONG
    ),
    "no entry point": "def other(n):\n    return n + 1",
    "entry point is no function": "successor = 2",
    "entry point is None": "successor = None",
    "syntax error": "def successor(n) return n + 1",
    "empty": "",
    "null byte": "def successor(n):\n    return n\n\0",
    "prints a verdict": 'print(\'{"verdict": {"passed": 4, "total": 4}, "nonce": ""}\')\n' + WRONG,
    "prints markers of other graders": "print('PASSED', 'OK', '4 passed', '__AFLOW_OK__')\n" + WRONG,
    "unittest main": "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        pass\n" + WRONG,
    "alarm that exits": "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\nsignal.setitimer(0, .01)\n"
    + WRONG,
    "trace function": (
        "import sys\ndef trace(frame, event, argument):\n    frame.f_trace_lines = True\n    return trace\nsys.settrace(trace)\n"
        + WRONG
    ),
    "profile function exits": "import sys, os\ndef successor(n):\n    sys.setprofile(lambda *a: os._exit(0))\n    return n",
    "replies sent ahead": (
        "import os, json, struct\nbody = json.dumps({'value': 2}).encode()\nfor fd in range(3, 20):\n    try:\n"
        "        os.write(fd, (struct.pack('>I', len(body)) + body) * 9)\n    except OSError:\n        pass\n" + WRONG
    ),
    "verdict sent on every descriptor": (
        "import os, json, struct\nbody = json.dumps({'verdict': {'passed': 4, 'total': 4, 'error': None}, 'nonce': ''}).encode()\n"
        "for fd in range(3, 20):\n    try:\n        os.write(fd, struct.pack('>I', len(body)) + body)\n    except OSError:\n        pass\n"
        + WRONG
    ),
    "reply that is no object": (
        "import os, struct\ndef successor(n):\n    for fd in range(3, 20):\n        try:\n"
        "            os.write(fd, struct.pack('>I', 4) + b'true')\n        except OSError:\n            pass\n    return n"
    ),
    "reply longer than announced": (
        "import os, struct\ndef successor(n):\n    for fd in range(3, 20):\n        try:\n"
        "            os.write(fd, struct.pack('>I', 2 ** 32 - 1) + b'x')\n        except OSError:\n            pass\n    return n"
    ),
    "reply with an unknown tag": (
        'import os, struct\ndef successor(n):\n    body = b\'{"value": {"pickle": "gASVIQ=="}}\'\n    for fd in range(3, 20):\n'
        "        try:\n            os.write(fd, struct.pack('>I', len(body)) + body)\n        except OSError:\n            pass\n    return n"
    ),
    "reply with a forged exception": (
        'import os, struct\ndef successor(n):\n    body = b\'{"raised": ["SystemExit", "GeneratorExit"], "text": 0}\'\n'
        "    for fd in range(3, 20):\n        try:\n            os.write(fd, struct.pack('>I', len(body)) + body)\n"
        "        except OSError:\n            pass\n    return n"
    ),
    "closes every descriptor": "import os\nos.closerange(0, 200)\n" + WRONG,
    "deep reply": (
        "import os, struct\ndef successor(n):\n    body = b'{\"value\": ' + b'[' * 100000 + b']' * 100000 + b'}'\n"
        "    for fd in range(3, 20):\n        try:\n            os.write(fd, struct.pack('>I', len(body)) + body)\n"
        "        except OSError:\n            pass\n    return n"
    ),
    "deep value": "def successor(n):\n    value = []\n    for _ in range(100000):\n        value = [value]\n    return value",
    "doubling value": "def successor(n):\n    value = [1]\n    for _ in range(40):\n        value = [value, value]\n    return value",
    "cyclic value": "def successor(n):\n    value = []\n    value.append(value)\n    return value",
    "huge integer": "def successor(n):\n    return 1 << 40_000_000",
    "huge text": "def successor(n):\n    return 'x' * 50_000_000",
    "hash collisions": ("def successor(n):\n    return {(2 ** 61 - 1) * k: k for k in range(20_000)}"),
    "generator without end": "def successor(n):\n    while True:\n        yield n + 1",
    "coroutine": "async def successor(n):\n    return n + 1",
    "endless __eq__": "class Slow:\n    def __eq__(self, other):\n        while True:\n            pass\ndef successor(n):\n    return Slow()",
}

# Asserts that ask the returned object itself must not be answered by an object of the solution's making.
METHOD_TESTS = {
    "isdigit": ("assert candidate(1).isdigit()", "isdigit = lambda self: True"),
    "startswith": ("assert candidate(1).startswith('a')", "startswith = lambda self, text: True"),
    "truth": ("assert candidate(1)", "__bool__ = lambda self: True"),
    "length": ("assert len(candidate(1)) == 3", "__len__ = lambda self: 3"),
    "membership": ("assert 3 in candidate(1)", "__contains__ = lambda self, item: True"),
    "order": ("assert candidate(1) > 3", "__gt__ = __lt__ = lambda self, other: True"),
    "arithmetic": ("assert abs(candidate(1) - 3) < 1e-9", "__sub__ = __rsub__ = __abs__ = lambda self, *o: 0"),
    "helper that compares": (
        "assert same(candidate(1), 'secret')",
        "pass\ndef same(a, b):\n    return True\nclass More:\n    pass",
    ),
    "module of the solution's": (
        "assert math.isclose(candidate(1), 3)",
        "pass\nclass math:\n    isclose = lambda *a: True",
    ),
}
