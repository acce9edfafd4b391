"""What runs inside a box. Standard library only; sent to the box's interpreter as text, so nothing of it is on disk.

argv = [python, "-I", "-S", "-c", program(), str(fd)]
"""

from functools import cache
from importlib.resources import files

__all__ = ["program"]

_ORDER = ("frames", "processes", "landlock", "child", "files", "execution", "zygote")
_LOADER = """
import sys, types
for name, text in SOURCES.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)
module.main()
"""


@cache
def program() -> str:
    """Returns the program of process 1 of a box, to be given to ``python -c``."""
    here = files(__name__)
    sources = {f"{__name__}.{name}": (here / f"{name}.py").read_text(encoding="utf-8") for name in _ORDER}
    return f"SOURCES = {sources!r}{_LOADER}"
