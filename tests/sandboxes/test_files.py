"""The file API cannot be talked into touching anything but regular files of the workspace."""

import asyncio
import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from whet.core.errors import UserError
from whet.sandboxes import Limits, Sandbox, SandboxSpec, Snapshot
from whet.sandboxes.ladder import load_backend

SPEC = SandboxSpec(limits=Limits(work_bytes=32 << 20, tmp_bytes=8 << 20, files=3000, wall_seconds=20))


@pytest.fixture
def outside() -> Iterator[Path]:
    """A file of the host that any user may read and write."""
    folder = Path(tempfile.mkdtemp(prefix="whet-outside-"))
    folder.chmod(0o777)
    (folder / "secret").write_text("the host's")
    (folder / "secret").chmod(0o666)
    yield folder / "secret"
    assert (folder / "secret").read_text() == "the host's"
    assert [path.name for path in folder.iterdir()] == ["secret"]
    shutil.rmtree(folder)


async def opened(backend: str) -> Sandbox:
    return await load_backend(backend).create(SPEC)


@pytest.mark.asyncio
async def test_links_out_are_refused(backend: str, outside: Path) -> None:
    async with await opened(backend) as box:
        await box.run_python(
            f"import os\nos.symlink({str(outside)!r}, 'file')\nos.symlink({str(outside.parent)!r}, 'folder')\n"
            f"os.symlink('../' * 30 + {str(outside)!r}[1:], 'up')\nos.symlink('/proc/self/environ', 'env')\n"
            "os.symlink('/proc/self/root', 'magic')\nos.symlink('loop', 'loop')"
        )
        for path in ("file", "folder/secret", "up", "env", f"magic{outside}", "loop", "folder/new", "loop/new"):
            with pytest.raises(UserError):
                await box.read(path)
            with pytest.raises(UserError):
                await box.write(path, "mine")
        for path in ("folder", "magic", "up"):
            with pytest.raises(UserError):
                await box.list(path)


@pytest.mark.asyncio
async def test_links_inside_are_followed(backend: str) -> None:
    async with await opened(backend) as box:
        await box.write("runs/7/log.txt", "seven")
        await box.exec("ln -s runs/7 latest")
        assert await box.read("latest/log.txt") == b"seven"
        assert await box.list() == ["latest", "runs/7/log.txt"]


@pytest.mark.asyncio
async def test_what_is_no_regular_file_is_refused_at_once(backend: str) -> None:
    async with await opened(backend) as box:
        await box.run_python("import os, socket\nos.mkfifo('fifo')\nos.mkdir('folder')")
        async with asyncio.timeout(5):
            for path in ("fifo", "folder", "."):
                with pytest.raises(UserError):
                    await box.read(path)
                with pytest.raises(UserError):
                    await box.write(path, "x")
        assert await box.list() == []


@pytest.mark.asyncio
async def test_odd_names(backend: str) -> None:
    async with await opened(backend) as box:
        await box.run_python("open(b'\\xff\\xfe', 'w').write('odd'); open('a\\nb', 'w'); open('-rf', 'w')")
        names = await box.list()
        assert names == sorted(["\udcff\udcfe", "a\nb", "-rf"])
        assert await box.read("\udcff\udcfe") == b"odd"
        for path in ("a\0b", "x" * 300, "/".join(["y" * 200] * 30)):
            with pytest.raises(UserError):
                await box.read(path)
        copy = await box.fork()
        assert await copy.list() == names
        await copy.close()


@pytest.mark.asyncio
async def test_large_and_sparse_files(backend: str) -> None:
    async with await opened(backend) as box:
        await box.run_python("import os\nos.truncate(os.open('sparse', os.O_CREAT | os.O_RDWR), 30 << 20)")
        with pytest.raises(UserError, match="max_bytes"):
            await box.read("sparse", max_bytes=1 << 20)
        assert len(await box.read("sparse", max_bytes=30 << 20)) == 30 << 20


@pytest.mark.asyncio
async def test_a_full_workspace_is_said(backend: str) -> None:
    if backend in ("landlock", "unsafe_local"):
        pytest.skip("no file system of its own: the quota is measured while programs run")
    async with await opened(backend) as box:
        result = await box.run_python("open('fill', 'wb').write(bytes(40 << 20))")
        assert result.status == "disk_full", result
        with pytest.raises(UserError, match="No space left"):
            await box.write("more", bytes(1 << 20))


@pytest.mark.asyncio
async def test_too_many_files_to_list(backend: str) -> None:
    async with await opened(backend) as box:
        await box.run_python("for n in range(2500): open(str(n), 'w').close()")
        assert len(await box.list()) == 2500
        result = await box.run_python(
            "import time\nfor n in range(2500, 8000): open(str(n), 'w').close()\ntime.sleep(2)"
        )
        assert result.status == "disk_full", result
        with pytest.raises(UserError, match="more than 3000 files"):
            await box.list()


@pytest.mark.asyncio
async def test_race_of_links_never_leaks(backend: str, outside: Path) -> None:
    """A folder becomes a link to the host and back while it is read; only the host itself can do that to a box."""
    if backend not in ("landlock", "unsafe_local"):
        pytest.skip("no guest runs while the file API works, and the host does not see this workspace")
    async with await opened(backend) as box:
        await box.write("a/secret", "inside")
        work = (await box.exec("pwd -P")).stdout.strip()
        racing = threading.Event()

        def flip() -> None:
            while not racing.is_set():
                os.rename(f"{work}/a", f"{work}/b")
                os.symlink(outside.parent, f"{work}/a")
                os.unlink(f"{work}/a")
                os.rename(f"{work}/b", f"{work}/a")

        thread = threading.Thread(target=flip)
        thread.start()
        got, deadline = [], time.monotonic() + 1.5
        while time.monotonic() < deadline or (not got and time.monotonic() < deadline + 30):
            with contextlib.suppress(UserError):
                got.append(await box.read("a/secret"))
        racing.set()
        thread.join()
        assert set(got) == {b"inside"}


def archive(*entries: tuple[str, bytes, bytes, str]) -> Snapshot:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, data, target in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), target
            tar.addfile(info, io.BytesIO(data))
    data = buffer.getvalue()
    return Snapshot(digest=hashlib.sha256(data).hexdigest(), archive=data)


@pytest.mark.asyncio
async def test_hostile_archives(backend: str, outside: Path) -> None:
    folder, secret = str(outside.parent), str(outside)
    through = archive(("d", tarfile.SYMTYPE, b"", folder), ("d/new", tarfile.REGTYPE, b"x", ""))
    hostile = {
        "up": archive(("../../up", tarfile.REGTYPE, b"x", "")),
        "absolute": archive((f"{folder}/new", tarfile.REGTYPE, b"x", "")),
        "hard link": archive(("h", tarfile.LNKTYPE, b"", secret)),
        "device": archive(("n", tarfile.CHRTYPE, b"", "")),
        "fifo": archive(("f", tarfile.FIFOTYPE, b"", "")),
        "link below a link": archive(("d", tarfile.SYMTYPE, b"", folder), ("d/l", tarfile.SYMTYPE, b"", secret)),
        "not an archive": Snapshot(digest=hashlib.sha256(b"x" * 2000).hexdigest(), archive=b"x" * 2000),
    }
    async with await opened(backend) as box:
        for name, snapshot in hostile.items():
            with pytest.raises(UserError):
                await box.restore(snapshot)
            assert (await box.run_python("print('fine')")).stdout == "fine\n", name
        with pytest.raises(UserError):
            await box.restore(through)  # the file came first, so its folder is in the link's place


@pytest.mark.asyncio
async def test_snapshot_of_odd_things(backend: str) -> None:
    """FIFOs are left out, hard links become files, deep and unreadable folders come and go."""
    async with await opened(backend) as box:
        await box.run_python(
            "import os\nos.mkfifo('fifo')\nopen('one', 'w').write('1')\nos.link('one', 'two')\n"
            "for _ in range(300):\n    os.mkdir('d')\n    os.chdir('d')\nos.mkdir('shut', 0)"
        )
        empty_later = await box.exec("rm -rf d/d/d/d/d/d/d/d/d/d; ls")
        assert empty_later.stdout == "d\nfifo\none\ntwo\n", empty_later
        snapshot = await box.snapshot()
        await box.restore(snapshot)
        assert await box.list() == ["one", "two"]
        assert await box.read("two") == b"1"
