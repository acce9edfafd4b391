"""What runs inside a box. Standard library only; sent to the box's interpreter as text, so nothing of it is on disk.

argv = [python, "-I", "-S", "-c", program(magic), str(fd)]
"""

import base64
import marshal
from functools import cache
from importlib.resources import files
from importlib.util import MAGIC_NUMBER

__all__ = ["program"]

_ORDER = ("frames", "processes", "landlock", "child", "files", "execution", "zygote")
_LOADER = """
import base64, marshal, sys, types
for name, code in MODULES.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(marshal.loads(base64.b64decode(code)) if COMPILED else compile(code, name, "exec"), module.__dict__)
module.main()
"""


@cache
def program(magic: bytes = MAGIC_NUMBER) -> str:
    """Returns the program of process 1 of a box, to be given to ``python -c``.

    ``magic`` is the bytecode version of the box's interpreter: where it is ours as well, the modules travel compiled,
    which halves the time a box takes to start.
    """
    here = files(__name__)
    sources = {f"{__name__}.{name}": (here / f"{name}.py").read_text(encoding="utf-8") for name in _ORDER}
    if magic != MAGIC_NUMBER:
        return f"COMPILED = False\nMODULES = {sources!r}{_LOADER}"
    modules = {
        name: base64.b64encode(marshal.dumps(compile(text, name, "exec", dont_inherit=True))).decode()
        for name, text in sources.items()
    }
    return f"COMPILED = True\nMODULES = {modules!r}{_LOADER}"
