"""Answers that lie, cheat, kill and peek: none gets a verdict it has not earned, and none breaks the verifier."""

from collections.abc import Awaitable, Callable

import pytest

from whet.core import Verdict

Judge = Callable[..., Awaitable[Verdict]]

TEST = """
SECRET = "do-not-leak-me"
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(5, 5) == 10
"""

HOSTILE = {
    "prints a verdict": ("fail", "print('PASSED')\ndef add(a, b):\n    print('{\"passed\": true}')"),
    "leaves by exit": ("fail", "import sys\ndef add(a, b): sys.exit(0)"),
    "leaves by exit at load": ("fail", "raise SystemExit(0)"),
    "leaves by _exit": ("tampered", "import os\ndef add(a, b): os._exit(0)"),
    "leaves by _exit at load": ("tampered", "import os\nos._exit(0)"),
    "closes the channel": ("tampered", "import os\ndef add(a, b):\n    os.closerange(3, 99)\n    while True: pass"),
    "equal to everything": ("fail", "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()"),
    "an int equal to everything": (
        "fail",
        "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = None\ndef add(a, b): return E(0)",
    ),
    "patches what compares": (
        "fail",
        "import builtins, operator\noperator.eq = lambda a, b: True\nbuiltins.bool = lambda x: True\n"
        "builtins.AssertionError = ValueError\ndef add(a, b): return 0",
    ),
    "patches json": ("tampered", "import json\njson.dumps = lambda *a, **k: '{}'\ndef add(a, b): return 0"),
    "writes frames": (
        "tampered",
        "import json, os, struct\ndef add(a, b):\n    body = json.dumps({'id': 99, 'value': 3}).encode()\n"
        "    for fd in range(3, 64):\n        try: os.write(fd, struct.pack('>I', len(body)) + body)\n"
        "        except OSError: pass\n    return 3",
    ),
    "writes a huge frame": (
        "tampered",
        "import os\ndef add(a, b):\n    for fd in range(3, 64):\n        try: os.write(fd, b'\\xff' * 8)\n"
        "        except OSError: pass",
    ),
    "kills its parent": ("tampered", "import os\ndef add(a, b): os.kill(os.getppid(), 9)"),
    "interrupts its parent": ("tampered", "import os\ndef add(a, b): os.kill(os.getppid(), 2)"),
    "kills everybody": ("tampered", "import os\ndef add(a, b): os.kill(-1, 9)"),
    "starves its parent of memory": (
        "tampered",
        "import os, resource\ndef add(a, b):\n    resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1))\n"
        "    return 'x' * (10 << 20)",
    ),
    "starves its parent of files": (
        "fail",
        "import os, resource\ndef add(a, b): resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
    ),
    "crashes": ("fail", "import ctypes\ndef add(a, b): ctypes.string_at(0)"),
    "recurses": ("fail", "def add(a, b): return add(a, b)"),
    "loops and ignores signals": (
        "timeout",
        "import signal\ndef add(a, b):\n    for n in range(1, 32):\n        try: signal.signal(n, signal.SIG_IGN)\n"
        "        except (OSError, ValueError): pass\n    while True: pass",
    ),
    "a repr that exits": ("fail", "class R:\n    def __repr__(s): raise SystemExit\ndef add(a, b): return R()"),
    "an exception that exits": (
        "tampered",
        "import os\nclass X(Exception):\n    def __str__(s): os._exit(0)\ndef add(a, b): raise X",
    ),
    "a result that contains itself": ("fail", "def add(a, b):\n    x = []\n    x.append(x)\n    return x"),
    "a result too large": ("fail", "def add(a, b): return 'x' * (20 << 20)"),
    "eats memory": ("fail", "def add(a, b):\n    x = []\n    while True: x.append(bytearray(1 << 26))"),
    "forks without end": ("fail", "import os\ndef add(a, b):\n    while True: os.fork()"),
    "leaves a child behind": ("fail", "import os\ndef add(a, b):\n    if os.fork() == 0:\n        while True: pass"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", HOSTILE)
async def test_no_verdict_is_forged(judge: Judge, name: str) -> None:
    outcome, answer = HOSTILE[name]
    verdict = await judge("python_tests", answer, form="check", entry_point="add", test=TEST, seconds=4.0)
    allowed = {outcome, "timeout", "tampered"} if name == "forks without end" else {outcome}
    assert verdict.outcome in allowed, verdict
    assert verdict.score == 0.0


PEEK = {
    "memory of the tests": "return open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "descriptors of the tests": "return os.open(f'/proc/{os.getppid()}/fd/1', os.O_WRONLY)",
    "environment of the tests": "return open(f'/proc/{os.getppid()}/environ').read()",
    "maps of the tests": "return open(f'/proc/{os.getppid()}/maps').read()",
    "tracing": "return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    "frames": "return [1 for f in stack() if 'do-not' in str({**f.f_locals, 'frame': 0})]",
    "files": "return [open(f'{d}/{n}').read() for d in ('/work', '/tmp') for n in os.listdir(d)]",
    # The patterns are not the text they match; the first is in the answer itself and shows that the search works.
    "own memory": "return found(b'def found[(]patter[n]'), found(b'do-not-leak-m[e]'), found(b'\"non[c]e\": ')",
}

SAFE = {"tracing": ("-1",), "files": ("[]",), "own memory": ("(True, False, False)",), "frames": ("[]",)}

HELPERS = """
import ctypes, os, re, sys
def stack():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back
def found(pattern):
    return any(re.search(pattern, chunk) for chunk in memory())
def memory():
    with open('/proc/self/mem', 'rb', 0) as mem:
        for line in open('/proc/self/maps'):
            low, high = (int(x, 16) for x in line.split()[0].split('-'))
            if 'rw' not in line or high - low > 1 << 28:
                continue
            try:
                mem.seek(low)
                yield mem.read(high - low)
            except (OSError, ValueError, OverflowError):
                continue
"""


@pytest.mark.asyncio
@pytest.mark.parametrize("what", PEEK)
async def test_the_answer_cannot_see_the_tests(judge: Judge, what: str) -> None:
    answer = f"{HELPERS}\ndef add(a, b):\n    {PEEK[what]}\n"
    verdict = await judge("python_tests", answer, form="check", entry_point="add", test=TEST, seconds=10.0)
    assert verdict.outcome == "fail"
    got = verdict.checks[0].got
    assert "do-not-leak" not in got
    assert got.startswith("raised PermissionError") or got in SAFE.get(what, ()), got


@pytest.mark.asyncio
async def test_a_forged_value_is_only_a_value(judge: Judge) -> None:
    """Whoever writes valid frames can say what the function returned, and nothing else."""
    answer = (
        "import json, os, struct\ndef add(a, b):\n"
        "    body = json.dumps({'id': 3, 'value': 4, 'passed': True}).encode()\n"
        "    for fd in range(3, 64):\n        try: os.write(fd, struct.pack('>I', len(body)) + body)\n"
        "        except OSError: pass\n    os.kill(os.getpid(), 19)\n"
    )
    verdict = await judge("python_tests", answer, form="check", entry_point="add", test=TEST, seconds=2.0)
    assert verdict.outcome in ("fail", "tampered", "timeout")
    assert verdict.score == 0.0
