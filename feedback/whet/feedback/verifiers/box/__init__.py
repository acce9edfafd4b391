"""The program of a fresh sandbox that judges Python: the answer in one process, the tests in another.

``program()`` is sent to the box as text and imports nothing but the standard library, because it runs where Whet is not
installed; the host shares the codec. A *job* goes to its standard input, a report comes from its standard output.

Why an answer cannot forge a verdict:

- The answer's process is forked before the job is read, so neither the tests, nor the expected values, nor the nonce
  that opens the report were ever in its memory. Its standard streams are ``/dev/null``.
- The tests' process makes itself undumpable first: its memory and descriptors cannot be opened, it cannot be traced.
- Tests call the answer through a proxy. Arguments and results cross as plain data, and comparisons happen in the
  tests' process: an ``__eq__`` that is always true, a patched builtin or a printed "PASSED" never reach them.
- Killing the tests' process, leaving by ``os._exit`` or writing on the channel is seen, and reported as tampering.
"""

from functools import cache
from importlib.resources import files

__all__ = ["program"]

_MODULES = ("codec", "frames", "answer", "remote", "tests")  # in the order in which they import each other

_BOOT = """
import sys, types
def load(name, source=""):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)
parts = PACKAGE.split(".")
for count in range(1, len(parts) + 1):
    load(".".join(parts[:count]))
for name, source in SOURCES:
    load(PACKAGE + "." + name, source)
sys.modules[PACKAGE + ".tests"].main()
"""


@cache
def program() -> str:
    """Returns the program's text: the modules of this folder, loaded under their own names."""
    sources = [(name, files(__name__).joinpath(f"{name}.py").read_text("utf-8")) for name in _MODULES]
    return f"PACKAGE = {__name__!r}\nSOURCES = {sources!r}\n{_BOOT}"
