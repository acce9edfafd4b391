"""One execution, from the fork to the last of its processes."""

import os
import resource
import select
import signal
import time

from whet.sandboxes.guest.child import become, execute, run_source
from whet.sandboxes.guest.files import Files, measure
from whet.sandboxes.guest.frames import Answer, Config, Link, Request
from whet.sandboxes.guest.landlock import build
from whet.sandboxes.guest.processes import descendants, proportional, resident, sweep

TICK = 0.02
MEASURE_EVERY = 12  # ticks, where the workspace is a plain folder
FLOOD = 16  # an execution that writes this many times its cap is killed


class Capture:
    """One output stream: the first and the last half of ``cap`` bytes are kept, the middle is counted."""

    def __init__(self, fd: int, cap: int) -> None:
        self.fd, self.cap, self.total = fd, cap, 0
        self.head = bytearray()
        self.tail = bytearray()

    def drain(self) -> bool:
        """Reads what is there; False when the stream has ended."""
        for _ in range(16):
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.keep(data)
        return True

    def keep(self, data: bytes) -> None:
        self.total += len(data)
        room = self.cap // 2 - len(self.head)
        self.head += data[:room] if room > 0 else b""
        self.tail += data[max(room, 0) :]
        if len(self.tail) > self.cap:
            del self.tail[: -(self.cap - self.cap // 2)]

    @property
    def truncated(self) -> bool:
        return self.total > self.cap

    def bytes(self) -> bytes:
        if not self.truncated:
            return bytes(self.head + self.tail)
        keep = self.cap - self.cap // 2
        return (
            bytes(self.head) + b"\n[... %d bytes left out ...]\n" % (self.total - self.cap) + bytes(self.tail[-keep:])
        )


class Keeper:
    """What the zygote holds: the socket, how to behave, the workspace, and the rule set of its guests."""

    def __init__(self, link: Link, config: Config) -> None:
        self.link, self.config = link, config
        self.files = Files(config["work"], config["limits"]["files"])
        self.rules = None if config["domain"] is None else build(config["domain"])


class Execution:
    """One guest program from fork to the last of its processes."""

    def __init__(self, keeper: Keeper, request: Request, stdin: bytearray) -> None:
        self.keeper, self.config = keeper, keeper.config
        self.request, self.stdin = request, memoryview(stdin)
        self.housekeeping = request["id"] < 0
        self.status = ""
        self.detail = ""
        self.feeding = False
        self.ticks = 0
        self.started = time.monotonic()
        self.deadline = self.started + request["timeout"]

    def run(self) -> tuple[Answer, bytes]:
        cwd = self.keeper.files.folder(self.request["cwd"])
        self.open_pipes()
        try:
            pid = self.fork(cwd)
            code, usage = self.supervise(pid)
            for capture in self.captures:
                capture.drain()
            self.check_alarm()
        finally:
            for fd in (cwd, self.input, *self.alarm, *(capture.fd for capture in self.captures)):
                if fd >= 0:
                    os.close(fd)
        return self.answer(code, usage)

    def open_pipes(self) -> None:
        ends, self.input = os.pipe()
        out, child_out = os.pipe()
        err, child_err = os.pipe()
        self.theirs = (ends, child_out, child_err)
        self.alarm = os.pipe()
        for fd in (self.input, out, err, self.alarm[0]):
            os.set_blocking(fd, False)
        cap = self.config["limits"]["output_bytes"]
        self.captures = (Capture(out, cap), Capture(err, cap))

    def fork(self, cwd: int) -> int:
        try:
            pid = os.fork()
        except OSError as error:
            raise RuntimeError(f"the box cannot fork: {error.strerror}") from error
        if pid == 0:
            try:
                become(self.config, self.keeper.rules, self.theirs, cwd, trusted=self.housekeeping)
                # What a program reads from its standard input, a process that it forked before must not find in memory.
                self.stdin[:] = bytes(len(self.stdin))
            except BaseException as error:  # the box is broken, which is no result of the guest
                os.write(self.alarm[1], repr(error).encode())
                os._exit(125)
            try:
                if "code" in self.request:
                    run_source(self.request["code"])
                execute(self.request["argv"], self.request["env"])
            finally:
                os._exit(1)
        for fd in self.theirs:
            os.close(fd)
        return pid

    def check_alarm(self) -> None:
        os.close(self.alarm[1])
        self.alarm = (self.alarm[0], -1)
        if text := os.read(self.alarm[0], 4096):
            raise RuntimeError(f"a guest could not be confined: {text.decode()}")

    def supervise(self, pid: int) -> tuple[int, resource.struct_rusage]:
        """Waits for the program's end, or brings it about. Returns its wait status and resource usage."""
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        for fd in (pidfd, *(capture.fd for capture in self.captures)):
            poll.register(fd, select.POLLIN)
        if not self.housekeeping:  # which nobody cancels
            poll.register(self.keeper.link.sock.fileno(), select.POLLIN)
        self.feed(poll)
        tick = self.started + TICK
        try:
            while not self.status:
                now = time.monotonic()
                ready = dict(poll.poll(max(0.0, min(tick, self.deadline) - now) * 1000 + 0.5))
                if self.handle(ready, poll) or pidfd in ready:
                    break
                if (now := time.monotonic()) >= self.deadline:
                    self.stop("timeout", f"wall clock: {self.request['timeout']:g} s")
                elif now >= tick:
                    self.watch()
                    tick = time.monotonic() + TICK
        finally:
            os.close(pidfd)
            ended = sweep(pid)
        return ended

    def handle(self, ready: dict[int, int], poll: select.poll) -> bool:
        """Moves bytes; True when the execution is cancelled."""
        if self.input in ready:
            self.feed(poll)
        for capture in self.captures:
            if capture.fd in ready:
                if not capture.drain():
                    poll.unregister(capture.fd)
                if capture.total > FLOOD * capture.cap:
                    self.stop("output_limit", f"{capture.total} bytes written, {capture.cap} are kept")
        if self.keeper.link.sock.fileno() in ready and self.keeper.link.cancelled(self.request["id"]):
            self.stop("timeout", "cancelled")
            return True
        return False

    def feed(self, poll: select.poll) -> None:
        """Writes what the pipe takes of stdin and closes it at the end."""
        try:
            while self.stdin:
                self.stdin = self.stdin[os.write(self.input, self.stdin[: 1 << 16]) :]
        except BlockingIOError:
            poll.register(self.input, select.POLLOUT)
            self.feeding = True
            return
        except BrokenPipeError:
            pass  # the guest does not want it
        if self.feeding:
            poll.unregister(self.input)
        os.close(self.input)
        self.input = -1

    def stop(self, status: str, detail: str) -> None:
        self.status, self.detail = self.status or status, self.detail or detail

    def watch(self) -> None:
        """What no rlimit bounds: the memory of all processes together, and the number of files."""
        limits = self.config["limits"]
        pids = descendants()
        if resident(pids) > limits["memory_bytes"] and proportional(pids) > limits["memory_bytes"]:
            self.stop("oom", f"more than {limits['memory_bytes']} bytes of memory")
        if len(pids) > limits["processes"]:
            self.stop("signal", f"more than {limits['processes']} processes")
        self.ticks += 1
        if self.ticks % MEASURE_EVERY == 0:
            self.measure()
        for folder in self.config["tmpfs"]:
            space = os.statvfs(folder)
            if space.f_files - space.f_ffree > limits["files"]:
                self.stop("disk_full", f"more than {limits['files']} files in {folder}")

    def measure(self) -> None:
        limits = self.config["limits"]
        if over := measure(self.config["quota"], limits["work_bytes"], limits["files"]):
            self.stop("disk_full", over)

    def answer(self, code: int, usage: resource.struct_rusage) -> tuple[Answer, bytes]:
        ended = os.waitstatus_to_exitcode(code)
        killed = -ended if ended < 0 else None
        if not self.status:
            self.measure()
        if not self.status:
            self.judge(ended, usage)
        out, err = (capture.bytes() for capture in self.captures)
        header: Answer = {
            "status": self.status,
            "detail": self.detail,
            "exit_code": ended if killed is None else None,
            "signal": killed,
            "truncated": any(capture.truncated for capture in self.captures),
            "seconds": time.monotonic() - self.started,
            "split": len(out),
        }
        return header, out + err

    def judge(self, ended: int, usage: resource.struct_rusage) -> None:
        """Names the end of a program that nobody stopped."""
        limits = self.config["limits"]
        if ended == 0:
            self.status = "ok"
        elif ended == -signal.SIGXCPU or (
            ended == -signal.SIGKILL and usage.ru_utime + usage.ru_stime > limits["cpu_seconds"]
        ):
            self.stop("timeout", f"processor time: {limits['cpu_seconds']:g} s")
        elif ended == -signal.SIGXFSZ:
            self.stop("disk_full", f"a file of more than {limits['work_bytes']} bytes")
        elif full := self.full():
            self.stop("disk_full", f"no space left in {full}")
        else:
            self.status = "signal" if ended < 0 else "nonzero"

    def full(self) -> str:
        """Returns the first folder with less than a page of space, or the empty string."""
        for folder in self.config["tmpfs"]:
            space = os.statvfs(folder)
            if space.f_bavail * space.f_frsize < 1 << 16:
                return str(folder)
        return ""
