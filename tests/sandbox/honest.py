"""Solutions and programs that must not suffer from the walls."""

# name: (code, entry point, test)
SOLUTIONS = {
    "plain": ("def add(a, b):\n    return a + b", "add", "assert add(1, 2) == 3\nassert add(-1, 1) == 0"),
    "check without its call": ("def f(x):\n    return x", "f", "def check(candidate):\n    assert candidate(1) == 1"),
    "check with its call": (
        "def f(x):\n    return x",
        "f",
        "def check(candidate):\n    assert candidate(1) == 1\ncheck(f)",
    ),
    "numpy": (
        "import numpy as np\ndef mean(x):\n    return np.mean(np.array(x))\ndef largest(x):\n    return np.max(x)",
        "mean",
        "assert mean([1, 2, 3]) == 2\nassert abs(mean([0, 1]) - .5) < 1e-9",
    ),
    "numpy integer": ("import numpy as np\ndef top(x):\n    return np.max(x)", "top", "assert top([1, 7]) == 7"),
    "numpy.testing": (
        "def half(x):\n    return [v / 2 for v in x]",
        "half",
        "import numpy as np\ndef check(candidate):\n    np.testing.assert_allclose(candidate([1, 2]), [.5, 1])",
    ),
    "sympy": (
        "import sympy\ndef roots(a):\n    x = sympy.Symbol('x')\n    return sorted(int(r) for r in sympy.solve(x ** 2 - a))",
        "roots",
        "assert roots(9) == [-3, 3]",
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef squares(n):\n    with ThreadPoolExecutor(4) as pool:\n"
        "        return list(pool.map(lambda v: v * v, range(n)))",
        "squares",
        "assert squares(4) == [0, 1, 4, 9]",
    ),
    "asyncio": (
        "import asyncio\nasync def wait(n):\n    await asyncio.sleep(0)\n    return n\ndef f(n):\n    return asyncio.run(wait(n))",
        "f",
        "assert f(3) == 3",
    ),
    "recursion": (
        "import sys\nsys.setrecursionlimit(20000)\ndef depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)",
        "depth",
        "assert depth(5000) == 5000",
    ),
    "lru_cache": (
        "from functools import lru_cache\n@lru_cache(None)\ndef fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)",
        "fib",
        "assert fib(200) == 280571172992510140037611932413038677189525",
    ),
    "files in scratch": (
        "import tempfile, os\ndef f(t):\n    with tempfile.NamedTemporaryFile('w', delete=False) as file:\n        file.write(t)\n"
        "    open('here.txt', 'w').write(t)\n    return open(file.name).read() + open('here.txt').read()",
        "f",
        "assert f('ab') == 'abab'",
    ),
    "state between calls": (
        "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)",
        "f",
        "assert f('a') == 1\nassert f('b') == 2",
    ),
    "noisy": (
        "print('start')\ndef f(x):\n    print('x' * 200_000)\n    return x",
        "f",
        "assert f(1) == 1\nassert f(2) == 2",
    ),
    "CRLF": ("def f(x):\r\n    return x + 1\r\n", "f", "assert f(1) == 2\r\nassert f(2) == 3\r\n"),
    "unicode": ("def größe(text):\n    return len(text) * '🙂'", "größe", "assert größe('né') == '🙂🙂'"),
    "lone surrogate": ("def f():\n    return '\\ud800'", "f", "assert f() == '\\ud800'"),
    "builtin types": (
        "def f(k):\n    return {'t': (1, 2), 's': {1, 2}, 'z': frozenset({3}), 'b': b'\\x00', 'c': 1j, 'r': range(3),\n"
        "            'n': None, 'i': 10 ** 400, 'e': float('inf'), 'd': {(1, 2): [3]}, 'y': bytearray(b'q')}[k]",
        "f",
        "assert f('t') == (1, 2)\nassert f('t') != [1, 2]\nassert f('s') == {1, 2}\nassert f('z') == frozenset({3})\n"
        "assert f('b') == b'\\x00'\nassert f('c') == 1j\nassert f('r') == range(3)\nassert f('n') is None\n"
        "assert f('i') == 10 ** 400\nassert f('e') == float('inf')\nassert f('d') == {(1, 2): [3]}\n"
        "assert f('y') == bytearray(b'q')\nassert isinstance(f('t'), tuple)",
    ),
    "types from the library": (
        "from collections import Counter, OrderedDict, namedtuple, defaultdict\nP = namedtuple('P', 'x y')\n"
        "def f(k):\n    return {'c': Counter('aab'), 'o': OrderedDict(a=1), 'p': P(1, 2), 'd': defaultdict(int, a=1)}[k]",
        "f",
        "assert f('c') == {'a': 2, 'b': 1}\nassert f('o') == {'a': 1}\nassert f('p') == (1, 2)\nassert f('d') == {'a': 1}",
    ),
    "generator": (
        "def f(n):\n    yield from range(n)",
        "f",
        "assert list(f(1000)) == list(range(1000))\nassert next(f(3)) == 0",
    ),
    "own class as an argument": (
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\ndef total(pairs):\n"
        "    return sum(p.a + p.b for p in pairs)",
        "total",
        "assert total([Pair(1, 2), Pair(3, 4)]) == 10",
    ),
    "own class, built up by the test": (
        "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\ndef length(n):\n"
        "    return 0 if n is None else 1 + length(n.next)",
        "length",
        "head = Node(1)\nhead.next = Node(2)\nhead.next.next = Node(3)\ndef check(candidate):\n    assert candidate(head) == 3",
    ),
    "a class as the entry point": (
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x):\n        self.items.append(x)\n"
        "    def pop(self):\n        return self.items.pop()",
        "Stack",
        "def check(candidate):\n    s = candidate()\n    s.push(3)\n    s.push(4)\n    assert s.pop() == 4\n    assert s.pop() == 3",
    ),
    "types as arguments": (
        "def keep(values, kind):\n    return [v for v in values if isinstance(v, kind)]",
        "keep",
        "assert keep([1, 'a'], int) == [1]",
    ),
    "keyword arguments": ("def f(a, *, b=2):\n    return a * b", "f", "assert f(2) == 4\nassert f(2, b=5) == 10"),
    "expected exceptions": (
        "def f(x):\n    if x < 0:\n        raise ValueError('negative')\n    return x",
        "f",
        "def check(candidate):\n    assert candidate(1) == 1\n    try:\n        candidate(-1)\n    except ValueError:\n        pass\n"
        "    else:\n        assert False",
    ),
    "an own exception": (
        "class Bad(KeyError):\n    pass\ndef f(x):\n    raise Bad(x)",
        "f",
        "caught = False\ntry:\n    f(1)\nexcept LookupError:\n    caught = True\nassert caught",
    ),
    "sorting in place": (
        "def order(values):\n    values.sort()",
        "order",
        "def check(candidate):\n    values = [3, 1, 2]\n    candidate(values)\n    assert values == [1, 2, 3]",
    ),
    "asserts in a loop": (
        "def f(x):\n    return x * x",
        "f",
        "def check(candidate):\n    for i in range(20):\n        assert candidate(i) == i ** 2",
    ),
    "results in variables": (
        "def f(x):\n    return x * x",
        "f",
        "def check(candidate):\n    r = candidate(3)\n    assert r == 9\n    a, b = candidate(1), candidate(2)\n    assert (a, b) == (1, 4)",
    ),
    "reference inside the test": (
        "def f(x):\n    return x[::-1]",
        "f",
        "def check(candidate):\n    def reference(x):\n        return list(reversed(x))\n    for n in range(5):\n"
        "        x = list(range(n))\n        assert candidate(x) == reference(x)",
    ),
    "main guard": (
        "def f(x):\n    return x\nif __name__ == '__main__':\n    raise SystemExit('not here')",
        "f",
        "assert f(1) == 1",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(n):\n    return P(n).x",
        "f",
        "assert f(4) == 4",
    ),
    "module that the test takes from the solution": (
        "import math\ndef area(r):\n    return math.pi * r * r",
        "area",
        "assert math.isclose(area(1), math.pi)",
    ),
    "large reply": ("def f(n):\n    return list(range(n))", "f", "assert f(100_000) == list(range(100_000))"),
    "random": (
        "import random\ndef f(n):\n    random.seed(n)\n    return random.random()",
        "f",
        "import random\nrandom.seed(3)\nassert f(3) == random.random()",
    ),
}

# name: (source, value, stdout)
PROGRAMS = {
    "value": ("def solve():\n    return [1, (2.5, None), {'a': {3}}]", [1, (2.5, None), {"a": {3}}], ""),
    "no solve": ("print('hello')", None, "hello\n"),
    "main guard": ("if __name__ == '__main__':\n    print(1)", None, "1\n"),
    "numpy scalar": ("import numpy\ndef solve():\n    return numpy.int64(3)", "3", ""),
    "numpy float": ("import numpy\ndef solve():\n    return numpy.float64(.5)", 0.5, ""),
    "fraction": ("from fractions import Fraction\ndef solve():\n    return Fraction(1, 3)", "1/3", ""),
    "sympy number": ("import sympy\ndef solve():\n    return sympy.sqrt(8)", "2*sqrt(2)", ""),
    "large integer": ("def solve():\n    return 7 ** 9999", 7**9999, ""),
    "stdout buffer": ("import sys\ndef solve():\n    sys.stdout.buffer.write('ü'.encode())\n    return 1", 1, "ü"),
    "stdin is empty": ("import sys\ndef solve():\n    return sys.stdin.read()", "", ""),
    "inspect its own source": (
        "import inspect\ndef solve():\n    return inspect.getsource(solve)",
        "def solve():\n    return inspect.getsource(solve)\n",
        "",
    ),
}
