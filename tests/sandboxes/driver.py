"""An owner of sandboxes as a process of its own, so that the abuse suite can run it under any uid.

One JSON request per line on stdin: a back end, limits, and the programs to run one after the other in one fresh box.
One JSON answer per line on stdout: what became of each, and whether the box still worked.
"""

import asyncio
import json
import sys
from typing import Any

import msgspec

from whet.core.errors import SandboxError
from whet.sandboxes.ladder import load_backend
from whet.sandboxes.sandbox import Limits, SandboxSpec


async def fire(request: dict[str, Any]) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    spec = SandboxSpec(limits=msgspec.convert(request["limits"], Limits))
    try:
        async with await load_backend(request["backend"]).create(spec) as box:
            for code in request["programs"]:
                result = await box.run_python(code, timeout=request["timeout"])
                results.append(msgspec.to_builtins(result))
            after = await box.run_python("print('fine')")
            # A box whose guest left too many files is full, and says so if it has the time to look.
            usable = after.stdout == "fine\n" or after.status == "disk_full"
            return {"results": results, "usable": usable, "lost": ""}
    except SandboxError as error:
        return {"results": results, "usable": False, "lost": str(error)}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(asyncio.run(fire(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
