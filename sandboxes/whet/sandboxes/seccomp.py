"""The system-call filter of every box, as a classic BPF program.

A deny list over the kernel's surface that a program in a box has no business with: other processes' memory, mounts and
namespaces, kernel modules, keyrings, io_uring, bpf, perf, and memory that no process owns (memfd, System V). It is
assembled here, without libseccomp, so that no machine falls to a weaker tier for want of a library; a test compares the
numbers with libseccomp's.

    program = assemble(namespaces=True)      # bytes for ``bwrap --seccomp`` or prctl(PR_SET_SECCOMP)
"""

import errno
import platform
import struct

from whet.core.errors import RefusedError

__all__ = ["DENIED", "SUPPORTED", "assemble"]

# name: (x86_64, aarch64); None where the architecture has no such call.
DENIED: dict[str, tuple[int, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "fanotify_init": (300, 262),
    # the kernel itself
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "syslog": (103, 116),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "reboot": (169, 142),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    # keyrings outlive a box
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # memory that no process's resident set shows
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# Programs probe for these and fall back when the kernel "does not have" them. clone3 hides its flags behind a pointer.
_ABSENT = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
# Landlock leaves these alone: without namespaces they would reach every file the user owns. The forms that take a
# descriptor stay, since a descriptor has to be opened first.
_BY_PATH = {
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "removexattrat": (466, 466),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
}
_CLONE, _SOCKET, _IOCTL = (56, 220), (41, 198), (16, 29)

SUPPORTED = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00000080
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data


def assemble(*, namespaces: bool, machine: str | None = None) -> bytes:
    """Returns the filter as an array of ``struct sock_filter``.

    Args:
        namespaces: whether the box has its own network and files. One that has not gets no sockets, and may change the
            modes and attributes of files by descriptor only.
        machine: the architecture; this machine's by default.

    Raises:
        RefusedError: no table for this architecture.
    """
    machine = machine or platform.machine()
    if machine not in SUPPORTED:
        raise RefusedError(f"no system-call filter for {machine!r}: one of {sorted(SUPPORTED)} is needed")
    column, audit_arch = SUPPORTED[machine]
    code = [_op(_LOAD, _ARCH), _op(_EQUAL, audit_arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]
    if machine == "x86_64":  # the x32 table would go around every number below
        code += [_op(_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    by_path = {} if namespaces else _BY_PATH
    for table, error in ((DENIED, errno.EPERM), (by_path, errno.EPERM), (_ABSENT, errno.ENOSYS)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                code += [_op(_EQUAL, number, 0, 1), _op(_RETURN, _ERRNO | error)]
    code += _clone(_CLONE[column]) + _ioctl(_IOCTL[column]) + _socket(_SOCKET[column], namespaces)
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _clone(number: int) -> list[bytes]:
    """No new namespaces; plain processes and threads pass."""
    return [
        _op(_EQUAL, number, 0, 4),
        _op(_LOAD, _ARGS),
        _op(_ANY_BIT, _NAMESPACES, 0, 1),
        _op(_RETURN, _ERRNO | errno.EPERM),
        _op(_RETURN, _ALLOW),
    ]


def _ioctl(number: int) -> list[bytes]:
    """No typing into a terminal. The kernel looks at the low half of the request only, and so does this."""
    first, second = _TERMINAL_INJECTION
    return [
        _op(_EQUAL, number, 0, 5),
        _op(_LOAD, _ARGS + 8),
        _op(_EQUAL, first, 1, 0),
        _op(_EQUAL, second, 0, 1),
        _op(_RETURN, _ERRNO | errno.EPERM),
        _op(_RETURN, _ALLOW),
    ]


def _socket(number: int, allowed: bool) -> list[bytes]:
    """Only the families that a network namespace confines: vsock and netlink would reach around it."""
    refuse = _op(_RETURN, _ERRNO | errno.EAFNOSUPPORT)
    if not allowed:
        return [_op(_EQUAL, number, 0, 1), refuse]
    tests = [_op(_EQUAL, family, len(_FAMILIES) - i, 0) for i, family in enumerate(_FAMILIES)]
    return [_op(_EQUAL, number, 0, len(tests) + 3), _op(_LOAD, _ARGS), *tests, refuse, _op(_RETURN, _ALLOW)]
