"""The workspace as files and as a tar archive; the kernel itself refuses every way out of it."""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, cast

if TYPE_CHECKING:
    import tarfile

from whet.sandboxes.guest.frames import CHUNK, Incoming, Outgoing, Refused

MTIME = 1_000_000_000  # every file of a snapshot, so that equal workspaces have equal archives

LIBC = ctypes.CDLL(None, use_errno=True)
OPENAT2 = 437
RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS = 0x08, 0x02


class OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class Files:
    """The workspace, opened so that the kernel itself refuses every way out of it (openat2, RESOLVE_BENEATH)."""

    def __init__(self, root: str, most: int) -> None:
        self.most = most
        self.root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        name = os.fsencode(relative(path))
        how = OpenHow(flags | os.O_CLOEXEC | os.O_NOCTTY, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
        while True:
            fd = LIBC.syscall(OPENAT2, self.root, name, ctypes.byref(how), ctypes.sizeof(how))
            code = ctypes.get_errno()
            if fd >= 0:
                return int(fd)
            if code == errno.EXDEV:
                raise Refused(f"{path!r} leads out of the workspace")
            if code not in (errno.EAGAIN, errno.EINTR):
                raise OSError(code, os.strerror(code), path)

    def folder(self, path: str) -> int:
        try:
            return self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise Refused(f"no folder {path!r} in the workspace: {error.strerror}") from error

    def regular(self, path: str, flags: int, mode: int = 0) -> int:
        fd = self.open(path, flags | os.O_NONBLOCK, mode)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Refused(f"{path!r} is not a regular file")
        return fd

    def make_folders(self, path: str) -> None:
        parts = relative(path).split("/")
        for depth in range(1, len(parts) + 1):
            here = "/".join(parts[:depth])
            try:
                os.close(self.open(here, os.O_RDONLY | os.O_DIRECTORY))
            except FileNotFoundError:
                parent = self.open("/".join(parts[: depth - 1]), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
                finally:
                    os.close(parent)

    def write(self, path: str, data: bytes | bytearray, mode: int = 0o644) -> None:
        parent = os.path.dirname(relative(path))
        if parent:
            self.make_folders(parent)
        fd = self.regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(fd, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def walk(self, path: str) -> Iterator[tuple[str, os.stat_result, int]]:
        """Yields (path relative to the workspace, lstat, folder descriptor), parents first; no link is followed."""
        todo, count = [relative(path)], 0
        while todo:
            base = todo.pop()
            fd = self.open(base, os.O_RDONLY | os.O_DIRECTORY)
            try:
                folders = []
                for name in sorted(os.listdir(fd)):
                    if (count := count + 1) > self.most:
                        raise Refused(f"more than {self.most} files in the workspace")
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    full = name if base == "." else f"{base}/{name}"
                    yield full, status, fd
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(full)
                todo += reversed(folders)
            finally:
                os.close(fd)


def measure(folders: list[str], limit: int, most: int) -> str:
    """Returns why a workspace that no file system bounds is too large, or the empty string."""
    todo, total, count = list(folders), 0, 0
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except FileNotFoundError:
            continue  # it was removed meanwhile
        except OSError as error:
            return f"a folder that cannot be measured: {error.strerror}"
        if total > limit or count > most:
            return f"{total} bytes in {count} files; {limit} bytes and {most} files are allowed"
    return ""


def relative(path: str) -> str:
    """Returns a path below the workspace; ``/work/x`` and ``x`` are the same file."""
    if path == "/work" or path.startswith("/work/"):
        path = path[len("/work") :].lstrip("/")
    if path.startswith("/"):
        raise Refused(f"{path!r} is outside the workspace /work")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"{path!r} may not contain '..'")
    return "/".join(parts) or "."


def pack(files: Files, out: Outgoing) -> None:
    """Writes the workspace as a tar archive: folders, regular files and links; times and owners are not kept."""
    import tarfile  # when first needed: it would be a fifth of the time a box takes to start

    with tarfile.open(fileobj=cast(IO[bytes], out), mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as tar:
        for path, status, folder in files.walk("."):
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime = stat.S_IMODE(status.st_mode) & 0o777, MTIME
            name = os.path.basename(path)
            if stat.S_ISDIR(status.st_mode):
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif stat.S_ISLNK(status.st_mode):
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=folder)
                tar.addfile(entry)
            elif stat.S_ISREG(status.st_mode):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                with open(fd, "rb") as file:
                    entry.size = status.st_size
                    tar.addfile(entry, file)


def unpack(files: Files, source: Incoming) -> None:
    """Fills the empty workspace from an archive. Links come last, so that no entry is written through one."""
    import tarfile

    links: list[tuple[str, str]] = []
    modes: list[tuple[str, int]] = []
    try:
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|", bufsize=CHUNK) as tar:
            for entry in tar:
                if entry.issym():
                    links.append((entry.name, entry.linkname))
                elif entry.isdir():
                    files.make_folders(entry.name)
                    modes.append((entry.name, entry.mode))
                elif entry.isreg():
                    copy(files, entry, tar.extractfile(entry))
                else:
                    raise Refused(f"the archive holds {entry.name!r}, which is neither file, folder nor link")
    except tarfile.TarError as error:
        raise Refused(f"not a usable archive: {error}") from error
    finish(files, links, modes)


def finish(files: Files, links: list[tuple[str, str]], modes: list[tuple[str, int]]) -> None:
    """Makes the links, then sets the modes of folders, which might forbid to write in them."""
    for name, target in links:
        parent = files.folder(os.path.dirname(relative(name)))
        try:
            os.symlink(target, os.path.basename(name), dir_fd=parent)
        finally:
            os.close(parent)
    for name, mode in reversed(modes):
        fd = files.folder(name)
        os.fchmod(fd, mode & 0o777)
        os.close(fd)


def copy(files: Files, entry: "tarfile.TarInfo", content: IO[bytes] | None) -> None:
    parent = os.path.dirname(relative(entry.name))
    if parent:
        files.make_folders(parent)
    fd = files.regular(entry.name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(fd, "wb") as file:
        while content is not None and (data := content.read(CHUNK)):
            file.write(data)
        os.fchmod(fd, entry.mode & 0o777)
