"""The format: what parses, what is refused (all of it at once), and that nothing is lost on the way out and in."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.core.errors import UserError
from whet.skills import Skill

text = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="<>\x85\u2028\u2029\ufeff"), max_size=60
)
line = text.map(str.strip)
names = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
skills = st.builds(
    Skill,
    name=names,
    description=line.filter(bool),
    body=st.lists(line, max_size=5).map(lambda lines: "\n".join(lines).strip()),
    license=line,
    compatibility=line,
    metadata=st.dictionaries(line.filter(bool), line, max_size=3),
    allowed_tools=st.lists(st.from_regex(r"[A-Za-z]{1,8}(\([a-z:* ,]{1,6}\))?", fullmatch=True), max_size=3).map(tuple),
    files=st.dictionaries(
        st.from_regex(r"(scripts|references)/[a-z_]{1,8}\.[a-z]{1,3}", fullmatch=True),
        st.binary(max_size=20),
        max_size=3,
    ),
)


def parse(head: str, body: str = "Body.", folder: str | None = None, **files: bytes) -> Skill:
    return Skill.parse({"SKILL.md": f"---\n{head}\n---\n{body}".encode(), **files}, folder=folder)


@given(skills)
def test_parse_reads_back_what_render_wrote(skill: Skill) -> None:
    assert Skill.parse(skill.render(), folder=skill.name) == skill


def test_a_published_looking_skill_parses() -> None:
    skill = parse(
        "name: pdf-processing\ndescription: Extract text. Use when handling PDFs.\nlicense: Apache-2.0\n"
        "metadata:\n  author: someone\n  version: 1.0\nallowed-tools: Bash(git:*) Read"
    )
    assert skill.name == "pdf-processing"
    assert skill.metadata == {"author": "someone", "version": "1.0"}
    assert skill.allowed_tools == ("Bash(git:*)", "Read")
    assert skill.body == "Body."


def test_allowed_tools_may_be_a_list_and_an_empty_body_and_windows_lines_are_fine() -> None:
    files = {"SKILL.md": b"---\r\nname: on\r\ndescription: d\r\nallowed-tools: [Read, Bash]\r\n---"}
    skill = Skill.parse(files)
    assert (skill.name, skill.body, skill.allowed_tools) == ("on", "", ("Read", "Bash"))


@pytest.mark.parametrize(
    ("text", "tools"),
    [
        ("Bash(git add:*) Read", ("Bash(git add:*)", "Read")),
        ("Read, Grep,Bash(npm run a, b)", ("Read", "Grep", "Bash(npm run a, b)")),
        ('""', ()),
    ],
)
def test_what_stands_in_brackets_belongs_to_its_tool(text: str, tools: tuple[str, ...]) -> None:
    skill = parse(f"name: a\ndescription: d\nallowed-tools: {text}")
    assert skill.allowed_tools == tools
    assert Skill.parse(skill.render()) == skill


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        ("description: d", "name has 0 characters"),
        ("name: a", "description has 0 characters"),
        (f"name: {'a' * 65}\ndescription: d", "name has 65 characters"),
        ("name: A-b\ndescription: d", "name 'A-b'"),
        ("name: -a\ndescription: d", "name '-a'"),
        ("name: a-\ndescription: d", "name 'a-'"),
        ("name: a--b\ndescription: d", "name 'a--b'"),
        ("name: ä\ndescription: d", "name 'ä'"),
        (f"name: a\ndescription: {'d' * 1025}", "description has 1025 characters"),
        ("name: a\ndescription: open <b>", "'<' or '>'"),
        ("name: a\ndescription: [d]", "description is no text"),
        (f"name: a\ndescription: d\ncompatibility: {'c' * 501}", "compatibility has 501 characters"),
        ("name: a\ndescription: d\ncompatibility: ''", "compatibility has 0 characters"),
        ("name: a\ndescription: d\nlicense: [MIT]", "license is no text"),
        ("name: a\ndescription: d\ndescription: e", "key 'description' is given 2 times"),
        ("name: a\ndescription: d\nmetadata: text", "metadata is no map"),
        ("name: a\ndescription: d\nmetadata: {a: {b: c}}", "metadata is no map"),
        ("name: a\ndescription: d\nallowed-tools: {a: b}", "allowed-tools"),
        ("name: a\ndescription: d\nallowed_tools: x", "unknown key 'allowed_tools'"),
        ("name: a\ndescription: d: e", "not valid YAML"),
        ("- a", "no map of keys"),
        (f"name: a\ndescription: d\nmetadata: {{a: {'b' * (1 << 16)}}}", "(65536 at most)"),
    ],
)
def test_each_rule_is_enforced(head: str, complaint: str) -> None:
    with pytest.raises(UserError, match="breaks the Agent Skills format") as caught:
        parse(head)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_limits_are_inclusive() -> None:
    skill = parse(f"name: {'a' * 64}\ndescription: {'d' * 1024}\ncompatibility: {'c' * 500}")
    assert len(skill.name) == 64


def test_every_violation_is_listed_in_one_error() -> None:
    with pytest.raises(UserError) as caught:
        parse("name: A\ndescription: <\ncolour: red", folder="b", **{"../escape.py": b""})
    message = str(caught.value)
    for part in ("name 'A' (lower-case", "folder's name 'b'", "'<' or '>'", "'colour'", "'../escape.py'"):
        assert part in message


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "no SKILL.md"),
        ({"SKILL.md": b"\xff"}, "not UTF-8"),
        ({"SKILL.md": b"# Title"}, "front matter"),
        ({"SKILL.md": b"---\nname: a\n"}, "front matter"),
    ],
)
def test_files_without_a_readable_main_file_are_refused(files: dict[str, bytes], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Skill.parse(files)


@pytest.mark.parametrize("path", ["/etc/passwd", "a//b", "scripts/../../x", "scripts/a b.py", "a\nb", "./x", ""])
def test_paths_that_leave_the_folder_are_refused(path: str, verbs: Skill) -> None:
    with pytest.raises(UserError, match="file name"):
        Skill.parse({**verbs.render(), path: b""})


def test_an_invalid_skill_cannot_be_rendered(verbs: Skill) -> None:
    with pytest.raises(UserError, match="name 'Verbs'"):
        msgspec.structs.replace(verbs, name="Verbs").render()


def test_recommendations_are_advice_and_no_error(verbs: Skill) -> None:
    long = msgspec.structs.replace(
        verbs, body="word " * 600 + "\n" * 600 + "." * 5000, files={"references/a/b.md": b""}
    )
    assert Skill.parse(long.render()).name == "verbs"
    assert [word for word in ("lines", "tokens", "nested") if any(word in line for line in long.advice())] == [
        "lines",
        "tokens",
        "nested",
    ]
    assert verbs.advice() == []


def test_files_are_named_by_the_body_and_not_by_each_other(verbs: Skill) -> None:
    files = {**verbs.files, "references/guide.md": b"Then read references/origin.md."}
    chained = msgspec.structs.replace(verbs, body="See references/guide.md and scripts/gone.py.", files=files)
    assert chained.advice() == [
        "the body names 'scripts/gone.py', which is not there",
        "'references/guide.md' names 'references/origin.md', which the body does not",
    ]
    named = msgspec.structs.replace(verbs, body="See references/guide.md, references/origin.md, scripts/.", files=files)
    assert named.advice() == []


def test_the_digest_names_the_content(verbs: Skill) -> None:
    assert verbs.digest == Skill.parse(verbs.render()).digest
    assert verbs.digest != msgspec.structs.replace(verbs, body="other").digest
