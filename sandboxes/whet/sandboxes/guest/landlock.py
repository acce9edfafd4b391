"""Landlock domains, built and entered from inside: which paths a process may touch, and that it reaches no other.

See the kernel's Documentation/userspace-api/landlock.rst. ABI 6 is needed, which scopes signals and abstract sockets.
"""

import contextlib
import ctypes
import os
import stat
import struct

from whet.sandboxes.guest.frames import Domain

LIBC = ctypes.CDLL(None, use_errno=True)
CREATE, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION, PATH_BENEATH = 1, 1
NEEDED_ABI = 6
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE, IOCTL_DEV = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
ALL = (1 << 16) - 1
READ = EXECUTE | READ_FILE | READ_DIR
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
TCP, SCOPES = 0b11, 0b11
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def abi() -> int:
    """Returns the version of Landlock, 0 where there is none."""
    return max(0, int(LIBC.syscall(CREATE, None, 0, VERSION)))


def build(domain: Domain) -> int:
    """Returns the descriptor of a rule set. Raises OSError when the kernel has no Landlock, or too old a one."""
    if abi() < NEEDED_ABI:
        raise OSError(f"Landlock ABI {abi()}: {NEEDED_ABI} is needed (Linux 6.12)")
    attributes = struct.pack("QQQ", ALL, 0 if domain["sockets"] else TCP, SCOPES)
    rules = check(LIBC.syscall(CREATE, attributes, len(attributes), 0))
    for access, paths in ((READ, domain["read"]), (ALL & ~IOCTL_DEV, domain["write"])):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # an allow-list may name what this machine lacks
                allow(rules, path, access)
    return rules


def allow(rules: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= ON_FILES
        check(LIBC.syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", access, fd), 0))
    finally:
        os.close(fd)


def enter(rules: int) -> None:
    """Confines the calling thread for ever."""
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    check(LIBC.syscall(RESTRICT_SELF, rules, 0))


def filter_system_calls(program: bytes) -> None:
    """Installs a BPF program for the calling thread and its descendants."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    check(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0))


def check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
