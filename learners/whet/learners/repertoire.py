"""A repertoire: functions with checks and the programs that were seen to pass, as a skill, and read back from one.

    repertoire = Repertoire.of(policy.skill("world-7-discovered"))
    grown = repertoire.add(functions={"zorp": "def zorp(x): return x[::-1]"}, checks={"zorp": "def check_zorp(): …"})
    grown.skill("world-7-discovered")

Helpers are in the body, and nothing else: a small model's answers suffer from every line that it need not read. Chains
of them and all checks are in a script whose self-test runs them, programs in a reference that the description names. A
function that is replaced keeps its earlier versions in another reference.
"""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from whet.core.records import Record
from whet.learners.programs import Helper
from whet.skills import Skill

__all__ = ["Repertoire", "chain_name"]

SOLVED, EARLIER = "references/solved.md", "references/earlier.md"
MAX_LISTED = 600
_SECTION = re.compile(r"^## ([^\n]+)\n\n(.*?)\n\n(?=^## |\Z)", re.DOTALL | re.MULTILINE)


class Repertoire(Record, frozen=True, kw_only=True):
    """Functions and their check functions by name, programs by the function they show, and replaced versions."""

    functions: dict[str, str] = msgspec.field(default_factory=dict)
    checks: dict[str, str] = msgspec.field(default_factory=dict)
    programs: dict[str, str] = msgspec.field(default_factory=dict)
    earlier: dict[str, str] = msgspec.field(default_factory=dict)
    imports: tuple[str, ...] = ()

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> "Repertoire":
        """Returns what the files of such a skill hold; nothing where there are none."""
        script = next((data.decode() for path, data in files.items() if path.startswith("scripts/")), "")
        nodes = ast.parse(script).body
        sources = {
            node.name: ast.get_source_segment(script, node) or "" for node in nodes if isinstance(node, ast.FunctionDef)
        }
        return cls(
            functions={name: source for name, source in sources.items() if not name.startswith("check_")},
            checks={name.removeprefix("check_"): each for name, each in sources.items() if name.startswith("check_")},
            programs=dict(_SECTION.findall(files.get(SOLVED, b"").decode())),
            earlier=dict(_SECTION.findall(files.get(EARLIER, b"").decode())),
            imports=tuple(ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)),
        )

    def mastered(self, known: Mapping[str, Helper]) -> set[tuple[str, ...]]:
        """Returns the helpers, alone and in pairs, that are checked here and still defined as they are known now."""
        current = {name for name, helper in known.items() if self.functions.get(name) == helper.source}
        pairs = {(one, other) for one in current for other in current if chain_name((one, other)) in self.checks}
        return pairs | {(name,) for name in current & self.checks.keys()}

    def add(
        self,
        *,
        functions: Mapping[str, str],
        checks: Mapping[str, str],
        programs: Mapping[str, str],
        imports: Iterable[str] = (),
    ) -> "Repertoire":
        """Returns it with these added; functions of one name take the place of older ones, which are kept apart."""
        old = {
            name: self.functions[name] for name in functions if self.functions.get(name) not in (None, functions[name])
        }
        versions = {name: 1 + sum(title.startswith(f"{name}, version ") for title in self.earlier) for name in old}
        replaced = {f"{name}, version {versions[name]}": f"```python\n{source}\n```" for name, source in old.items()}
        # What a chain gives changes with the functions it calls, so its checks are worth nothing after that.
        stale = {name for name in self.functions if name not in functions and self._calls(name) & old.keys()}
        return Repertoire(
            functions={**{name: each for name, each in self.functions.items() if name not in stale}, **functions},
            checks={**{name: each for name, each in self.checks.items() if name not in stale}, **checks},
            programs={**self.programs, **programs},
            earlier={**self.earlier, **replaced},
            imports=tuple(sorted({*self.imports, *imports})),
        )

    def skill(self, name: str) -> Skill:
        """Returns all of it as a skill of this name."""
        chains = [each for each in self.functions if self._calls(each)]
        helpers = {each: source for each, source in self.functions.items() if each not in chains}
        script = f"scripts/{name.replace('-', '_')}.py"
        lines = ["Use these definitions:", "```python", *self.imports, *helpers.values(), "```"]
        files = {SOLVED: _sections(self.programs), script: self._script()}
        if self.earlier:
            files[EARLIER] = _sections(self.earlier)
        listed = ", ".join(sorted(helpers))
        listed = listed if len(listed) <= MAX_LISTED else listed[:MAX_LISTED].rsplit(",", 1)[0] + " and others"
        return Skill(
            name=name,
            description=f"What {listed} do, and chains of them ({SOLVED}), tried offline. Use when a task names one.",
            body="\n".join(lines),
            metadata={"keywords": " ".join(sorted(helpers))},
            files=dict(sorted(files.items())),
        )

    def _calls(self, name: str) -> set[str]:
        """Returns the other functions of the repertoire that a function calls."""
        called = set(re.findall(r"\b(\w+)\(", self.functions[name]))
        return called & self.functions.keys() - {name}

    def _script(self) -> bytes:
        main = ['if __name__ == "__main__":', *(f"    check_{name}()" for name in self.checks)]
        main += [f'    print("{len(self.checks)} checks pass")']
        parts = ["\n".join(self.imports), *self.functions.values(), *self.checks.values(), "\n".join(main)]
        return ("\n\n\n".join(part for part in parts if part) + "\n").encode()


def chain_name(helpers: Sequence[str]) -> str:
    """Returns what a function is called that applies helpers one after the other: ``zorp_then_blick``."""
    return "_then_".join(helpers)


def _sections(sections: Mapping[str, str]) -> bytes:
    return "".join(f"## {title}\n\n{text}\n\n" for title, text in sections.items()).encode()
