"""The filter's numbers are libseccomp's, and the program decides as it says, on both architectures."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core.errors import RefusedError
from whet.sandboxes import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
COLUMN = {"x86_64": 0, "aarch64": 1}


def instructions(program: bytes) -> Iterator[tuple[int, int, int, int]]:
    yield from struct.iter_unpack("HBBI", program)


def decide(program: bytes, number: int, *args: int, arch: int) -> int:
    """Runs the program as the kernel does. Returns what it returns."""
    data = struct.pack("IIQ6Q", number, arch, 0, *(list(args) + [0] * 6)[:6])
    code, at, held = list(instructions(program)), 0, 0
    while True:
        op, if_true, if_false, value = code[at]
        at += 1
        if op == 0x20:
            (held,) = struct.unpack_from("I", data, value)
        elif op == 0x06:
            return value
        else:
            met = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[op]
            at += if_true if met else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_libseccomps(machine: str) -> None:
    pyseccomp = pytest.importorskip("pyseccomp", reason="compares with libseccomp")
    arch = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}[machine]
    tables = (seccomp.DENIED, seccomp._BY_PATH, seccomp._ABSENT)
    too_new = {"setxattrat", "removexattrat"}  # for libseccomp 2.5
    for name, numbers in ((name, numbers) for table in tables for name, numbers in table.items()):
        if name not in too_new:
            theirs = pyseccomp.resolve_syscall(arch, name)
            assert (theirs if theirs >= 0 else None) == numbers[COLUMN[machine]], name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("namespaces", [True, False])
def test_decisions(machine: str, namespaces: bool) -> None:
    column, arch = seccomp.SUPPORTED[machine]
    program = seccomp.assemble(namespaces=namespaces, machine=machine)
    for name, numbers in seccomp.DENIED.items():
        if numbers[column] is not None:
            assert decide(program, numbers[column] or 0, arch=arch) == ERRNO | 1, name
    assert decide(program, 435, arch=arch) == ERRNO | 38
    clone, socket, ioctl = (pair[column] for pair in ((56, 220), (41, 198), (16, 29)))
    assert decide(program, clone, 17, arch=arch) == ALLOW
    assert decide(program, clone, 0x003D0F00, arch=arch) == ALLOW, "a thread"
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(program, clone, flag | 17, arch=arch) == ERRNO | 1
    for family in range(50):
        allowed = namespaces and family in (1, 2, 10)
        assert decide(program, socket, family, arch=arch) == (ALLOW if allowed else ERRNO | 97), family
    for request in (0x5412, 0x541C, 0x100005412):
        assert decide(program, ioctl, 0, request, arch=arch) == ERRNO | 1
    assert decide(program, ioctl, 0, 0x5401, arch=arch) == ALLOW
    chmod = 268 if machine == "x86_64" else 53
    assert decide(program, chmod, arch=arch) == (ALLOW if namespaces else ERRNO | 1)


@given(number=st.integers(0, 0xFFFFFFFF), arch=st.sampled_from([0x40000003, 0xC000003E, 0xC00000B7, 0]))
def test_foreign_architectures_never_pass(number: int, arch: int) -> None:
    program = seccomp.assemble(namespaces=True, machine="x86_64")
    got = decide(program, number, arch=arch)
    if arch != 0xC000003E:
        assert got == KILL
    elif number >= 0x40000000:
        assert got == ERRNO | 38


def test_unknown_machine_is_refused() -> None:
    with pytest.raises(RefusedError, match="riscv64"):
        seccomp.assemble(namespaces=True, machine="riscv64")
