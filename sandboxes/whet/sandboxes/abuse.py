"""What a hostile program tries, to be fired at any back end. Its counterpart for good programs is ``conformance``.

A payload is Python. It prints ``LEAK …`` when it gets somewhere, is harmless if it does, and finds in ``C`` the
canaries that a test has put up on the host (``tests/sandboxes/conftest.py``): paths, ports, names and a process.

    for payload in PAYLOADS:
        result = await box.run_python(payload.program(canaries), timeout=payload.timeout)
        assert "LEAK" not in result.stdout and result.status in payload.ends
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["PAYLOADS", "PRELUDE", "Payload"]

PRELUDE = """
import ctypes, errno, json, mmap, os, resource, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def leak(*what):
    print("LEAK", *what, flush=True)
def must_fail(what, attempt, *args):
    try:
        got = attempt(*args)
    except (OSError, MemoryError, ValueError, RuntimeError):
        return
    leak(what, repr(got)[:80])
def call(number, *args):
    ctypes.set_errno(0)
    if libc.syscall(number, *args) == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return "went through"
def touch(path):
    with open(path, "w") as file:
        return file.write("x")
def same(path):
    with open(path, "r+") as file:
        value = file.read()
        file.seek(0)
        return file.write(value)
"""

ANY = ("ok", "nonzero", "signal", "timeout", "oom", "output_limit", "disk_full")


@dataclass(frozen=True)
class Payload:
    """A program, the ends it may come to, and limits that differ from the suite's."""

    group: int
    name: str
    code: str
    ends: tuple[str, ...] = ("ok",)
    limits: dict[str, float] = field(default_factory=dict)
    timeout: float = 10.0
    private_processes: bool = False  # only where process ids are the box's own: elsewhere it would aim at this machine

    def program(self, canaries: Mapping[str, object]) -> str:
        """Returns the program with its canaries."""
        return f"{PRELUDE}C = json.loads({json.dumps(canaries)!r})\n{self.code}"


PAYLOADS = (
    # 1: reading the host
    Payload(
        1,
        "host files",
        """
for path in ("/etc/shadow", "/root/.bashrc", "/etc/sudoers", C["secret"], "/proc/self/root" + C["secret"],
             "/proc/1/root" + C["secret"], "/work/../../../.." + C["secret"], "/var/run/docker.sock", "/proc/kcore",
             "/proc/1/environ", "/proc/1/mem", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/kvm", "/sys/kernel/notes"):
    must_fail(path, lambda: open(path, "rb").read(1))
for path in ("/root", "/home", C["folder"], "/proc/1/fd", "/proc/1/root", "/var", "/sys"):
    must_fail(path, os.listdir, path)
""",
    ),
    Payload(
        1,
        "links to the host",
        """
for target in (C["secret"], "/proc/1/root" + C["secret"], "../" * 20 + C["secret"].lstrip("/")):
    os.symlink(target, "link")
    must_fail(target, lambda: open("link").read())
    os.unlink("link")
must_fail("hard link", os.link, C["secret"], "hard")
""",
    ),
    Payload(
        1,
        "environment of the owner",
        """
if C["variable"] in os.environ:
    leak("environment")
try:
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
except OSError:
    pids = []
for pid in pids:
    try:
        if C["variable"].encode() in open(f"/proc/{pid}/environ", "rb").read():
            leak("environment of", pid)
    except OSError:
        pass
""",
    ),
    Payload(
        1,
        "descriptors",
        """
for fd in range(3, 256):
    try:
        os.fstat(fd)
    except OSError:
        continue
    leak("descriptor", fd)
""",
    ),
    # 2: writing the host
    Payload(
        2,
        "host files",
        """
for path in ("/x", "/usr/x", "/usr/bin/x", "/etc/x", "/etc/passwd", "/dev/x", "/opt/x", "/var/x", "/run/x", "/sys/x",
             C["folder"] + "/x", "/proc/1/root" + C["folder"] + "/x", "/proc/1/oom_score_adj", "/proc/1/mem"):
    must_fail(path, touch, path)
for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/hostname"):
    must_fail(path, same, path)
must_fail("sysrq", lambda: open("/proc/sysrq-trigger", "w").close())
""",
    ),
    Payload(
        2,
        "modes and names",
        """
for path in ("/usr/bin/env", C["secret"], C["folder"]):
    must_fail(path, os.chmod, path, 0o777)
    must_fail(path, os.setxattr, path, "user.x", b"x")
    must_fail(path, os.rename, path, path + "2")
must_fail("unlink", os.unlink, C["secret"])
must_fail("rmdir", os.rmdir, C["folder"])
must_fail("truncate", os.truncate, C["secret"], 0)
""",
    ),
    # 3: filling
    Payload(
        3,
        "a file in every place",
        """
block = bytes(1 << 20)
def fill(path):
    with open(path, "wb") as file:
        for n in range(200):
            file.write(block)
    return n
for folder in ("/work", "/tmp", "/dev/shm", "/dev", "/", os.environ.get("TMPDIR", "/tmp")):
    must_fail(folder, fill, folder + "/fill")
""",
        ends=("ok", "disk_full"),
    ),
    Payload(3, "a sparse terabyte", "must_fail('sparse', os.truncate, os.open('s', os.O_CREAT | os.O_RDWR), 1 << 40)"),
    Payload(
        3,
        "many files",
        """
n = 0
try:
    while n < 9_000:
        os.mkdir(f"d{n}") if n % 2 else open(f"f{n}", "w").close()
        n += 1
except OSError:
    sys.exit()
time.sleep(1)
leak(n, "files")
""",
        ends=("ok", "disk_full", "oom"),
        timeout=60,
    ),
    # 4: memory
    Payload(
        4, "one gigabyte", "must_fail('gigabyte', lambda: len(bytearray(1 << 30)))", limits={"memory_bytes": 128 << 20}
    ),
    Payload(
        4,
        "many children",
        """
for _ in range(6):
    if os.fork() == 0:
        keep = b"x" * (100 << 20)
        time.sleep(20)
        os._exit(0)
time.sleep(15)
leak("600 MiB in children")
""",
        ends=("oom",),
        timeout=30,
    ),
    Payload(
        4,
        "shared pages",
        """
keep = [mmap.mmap(-1, 64 << 20) for _ in range(8)]
for one in keep:
    for at in range(0, len(one), 4096):
        one[at] = 1
time.sleep(5)
leak("512 MiB shared")
""",
        ends=("oom",),
        timeout=30,
    ),
    Payload(
        4,
        "memory that no process owns",
        """
must_fail("memfd", os.memfd_create, "x")
must_fail("shmget", call, {"x86_64": 29, "aarch64": 194}[os.uname().machine], 0, 4096, 0o1600)
must_fail("semget", call, {"x86_64": 64, "aarch64": 190}[os.uname().machine], 0, 1, 0o1600)
must_fail("msgget", call, {"x86_64": 68, "aarch64": 186}[os.uname().machine], 0, 0o1600)
must_fail("mq_open", call, {"x86_64": 240, "aarch64": 180}[os.uname().machine], b"/x", 0o102, 0o600, 0)
""",
    ),
    Payload(
        4,
        "pipes",
        """
import fcntl
held, total = [], 0
try:
    while len(held) < 4000:
        r, w = os.pipe()
        os.set_blocking(w, False)
        held += [r, w]
        total += os.write(w, bytes(1 << 16))
except OSError:
    sys.exit()
leak(total, "bytes in pipes")
""",
    ),
    # 5: processes
    Payload(
        5,
        "fork bomb",
        """
n = 0
try:
    while n < 400:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        n += 1
except OSError:
    sys.exit()
time.sleep(1)
leak(n, "processes")
""",
        ends=("ok", "signal"),
    ),
    Payload(
        5,
        "fork bomb that doubles",
        """
deadline = time.monotonic() + 3
while time.monotonic() < deadline:
    try:
        os.fork()
    except OSError:
        time.sleep(.01)
""",
        ends=("ok", "signal", "timeout", "oom"),
    ),
    Payload(
        5,
        "thread bomb",
        """
n = 0
try:
    while n < 2000:
        threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        n += 1
except RuntimeError:
    os._exit(0)
leak(n, "threads")
os._exit(0)
""",
        ends=("ok", "signal", "oom"),
    ),
    Payload(
        5,
        "daemons",
        """
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if os.fork() == 0:
            for number in range(1, 32):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            time.sleep(60)
        os._exit(0)
""",
        timeout=5,
    ),
    Payload(5, "zombies", "[os._exit(0) for _ in range(30) if os.fork() == 0]", ends=("ok",)),
    Payload(
        5,
        "kill the keeper",
        """
for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV):
    try:
        os.kill(os.getppid(), number)
    except OSError:
        pass
""",
    ),
    Payload(
        5,
        "kill everything",
        """
for target in (1, C["pid"], -1, 0):
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(target, number)
        except OSError:
            pass
""",
        ends=ANY,
        timeout=2,
        private_processes=True,
    ),
    Payload(5, "kill a process of the host", "must_fail('kill', os.kill, C['pid'], 0)"),
    # 6: time
    Payload(6, "loop", "while True: pass", ends=("timeout",), timeout=1),
    Payload(
        6,
        "loop deaf to signals",
        """
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True: pass
""",
        ends=("timeout",),
        timeout=1,
    ),
    Payload(6, "loop in C", "sum(range(10 ** 13))", ends=("timeout",), timeout=1),
    Payload(6, "stops itself", "os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)", ends=("timeout",), timeout=1),
    Payload(6, "sleeps", "time.sleep(60)", ends=("timeout",), timeout=1),
    Payload(
        6,
        "catches the end of its processor time",
        "signal.signal(signal.SIGXCPU, lambda *a: None)\nwhile True: pass",
        ends=("timeout",),
        limits={"cpu_seconds": 1},
    ),
    # 7: the kernel's surface
    Payload(
        7,
        "system calls",
        """
for name, number in C["calls"].items():
    must_fail(name, call, number, 0, 0, 0, 0, 0, 0)
must_fail("clone into namespaces", call, C["clone"], 0x10000000 | 17, 0, 0, 0, 0)
try:
    call(435, 0, 0)
except OSError as error:
    if error.errno != errno.ENOSYS:
        leak("clone3 exists:", error)
""",
    ),
    Payload(
        7,
        "socket families",
        """
for family in (0, 3, 4, 5, 9, 15, 16, 17, 21, 26, 29, 30, 31, 38, 39, 40, 41, 42, 43, 44):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        must_fail((family, kind), socket.socket, family, kind)
for family in (socket.AF_INET, socket.AF_INET6):
    must_fail("raw", socket.socket, family, socket.SOCK_RAW, 1)
""",
    ),
    Payload(
        7,
        "rights",
        """
must_fail("setuid", os.setuid, 0)
must_fail("setgid", os.setgid, 0)
must_fail("nice", os.nice, -10)
must_fail("real time", os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
must_fail("chroot", os.chroot, ".")
must_fail("device", os.mknod, "device", 0o600 | 0x2000, os.makedev(1, 3))
for which in ("AS", "NPROC", "NOFILE", "FSIZE", "CPU"):
    must_fail(which, resource.setrlimit, getattr(resource, "RLIMIT_" + which), (resource.RLIM_INFINITY,) * 2)
open("su", "wb").close()
os.fchmod(os.open("su", os.O_RDONLY), 0o4755)
if os.system("su -c true </dev/null >/dev/null 2>&1") == 0:
    leak("su")
import fcntl
try:
    must_fail("TIOCSTI", fcntl.ioctl, os.open("/dev/tty", os.O_RDWR), 0x5412, b"x")
except OSError:
    pass
""",
    ),
    Payload(
        7,
        "foreign system calls",
        """
if os.uname().machine == "x86_64":
    must_fail("x32", call, 0x40000000 | 39)
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
    run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    leak("int 0x80 returned", run())
""",
        ends=("signal", "ok"),
    ),
    # 8: the network
    Payload(
        8,
        "the host's ports",
        """
for host in ("127.0.0.1", "::1", C["address"], "169.254.169.254", "1.1.1.1"):
    for port in (C["tcp"], 53, 80):
        must_fail((host, port), socket.create_connection, (host, port), .3)
def datagram(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"x", (host, port))
if not C["address"].startswith("127."):
    must_fail("udp", datagram, C["address"], C["udp"])
try:
    datagram("127.0.0.1", C["udp"])  # goes to the box's own loopback, which nobody hears
except OSError:
    pass
must_fail("names", socket.getaddrinfo, "example.com", 80)
""",
    ),
    Payload(
        8,
        "Unix sockets",
        """
def reach(name):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(name)
        return sock.send(b"x")
must_fail("abstract", reach, "\\0" + C["abstract"])
must_fail("path", reach, C["unix"])
must_fail("path through the keeper", reach, "/proc/1/root" + C["unix"])
""",
    ),
    # 10: output
    Payload(10, "endless stdout", "while True: os.write(1, b'x' * 65536)", ends=("output_limit",)),
    Payload(10, "endless stderr", "while True: os.write(2, b'x' * 65536)", ends=("output_limit",)),
    Payload(
        10,
        "frames of the protocol",
        """
forged = json.dumps({"id": 1, "status": "ok", "exit_code": 0, "split": 6}).encode()
frame = struct.pack("!IQ", len(forged), 6) + forged + b"FORGED"
for fd in range(64):
    try:
        os.write(fd, frame * 3)
    except OSError:
        pass
sys.exit(9)
""",
        ends=("nonzero",),
    ),
    # 12: state and results
    Payload(
        12,
        "the keeper's socket",
        """
import gc
for thing in gc.get_objects():
    if isinstance(thing, socket.socket) and thing.fileno() >= 0:
        try:
            leak("a socket", thing.send(b"x"))
        except OSError:
            pass
""",
    ),
)
