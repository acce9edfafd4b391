from pathlib import Path

import pytest

from whet.skills import Skill


@pytest.fixture
def verbs() -> Skill:
    return Skill(
        name="verbs",
        description="What the verbs zorp and blick do. Use when a task mentions zorp or blick.",
        body="Definitions:\n\n```python\ndef zorp(x): return x[::-1]\n```",
        metadata={"keywords": "zorp blick", "version": "1.10"},
        files={
            "scripts/verbs.py": b"import sys\ndef zorp(x): return x[::-1]\nprint(zorp(sys.argv[1]))\n",
            "scripts/main.sh": b"cat; echo $1\n",
            "scripts/data.bin": b"\x00\xff",
            "references/origin.md": b"nowhere",
        },
    )


@pytest.fixture
def folder(verbs: Skill, tmp_path: Path) -> Path:
    root = tmp_path / "verbs"
    for path, data in verbs.render().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root
