"""The wheel holds every module of every room: a forgotten room builds a hollow wheel without an error."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "sandboxes", "memory", "feedback", "skills", "agents", "learners", "apps")


def package_files() -> set[str]:
    """Returns all files of the rooms that a user needs, by their path in the wheel."""
    return {
        str(path.relative_to(ROOT / room))
        for room in ROOMS
        for path in (ROOT / room / "whet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_module_of_every_room(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert package_files() <= names
    assert not [name for name in names if name == "whet/__init__.py"]
    for room in ROOMS:
        assert f"whet/{room}/py.typed" in names
