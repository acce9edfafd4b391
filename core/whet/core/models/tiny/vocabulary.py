"""The words, phrases and special tokens of the embedded model's tokenizer. Changing a line means training anew."""

from whet.core.models.tiny.world import OPERATIONS

__all__ = ["BODIES", "PHRASES", "PREFIXED", "ROLES", "SPECIAL", "WORDS"]

ROLES = ("system", "user", "assistant")
SPECIAL = ("<|pad|>", "<|end|>", *(f"<|{role}|>" for role in ROLES))

# Matched literally wherever they start a piece; longer ones first. A definition is thus a verb and, right after it,
# one token that says all: to recall it is the simplest thing attention learns (Olsson et al. 2022, arXiv 2209.11895).
PREFIXED = tuple(sorted(OPERATIONS, key=len, reverse=True))
BODIES = tuple(f"(x): return {expression}" for expression in PREFIXED)
PHRASES = (
    "Write solve(x): ",
    "(x): return ",
    ", expected ",
    " returned ",
    "Write a corrected answer.",
    "Rejected.",
    "# Lessons",
    "# Skill: ",
    "```python",
    "```",
    ", then ",
    " == ",
    "raised ",
    "([",
    "])",
    "].",
    "('",
    "')",
    "'.",
    ", ",
    "::",
)

_ENGLISH = """
a about after again all also always an and answer any apply are as ask at avoid be because been before below best but by
call can case change chain check checks code come correct could data defined definition definitions did different do
does done each either else empty end error every exact example examples expected fact fail failed fails false feedback
few find first fix follow following for from function functions get give given gives good had has have here hint how if
in input instead into is it item items its keep known last later lesson lessons less letter like line list lists
make made many mean meaning means must name need never new next no none not note nothing now number numbers of on once
one only operation or order other our output over part person plain please prefer program prompt question read
rejected remember result return returned returns reverse right rule rules same see sequence should show skill so
solution solve some sort start step steps string such take task tasks test tests text than that the their them then
there these they this those to together true try two up use used uses using value values verb verbs very was way we well
went were what when where which while will with without word words work works would write written wrong yes you your
"""
_PYTHON = """
lambda class self print len range str int None True False python Python ValueError TypeError NameError SyntaxError
attribute type sorted max sum assert x v s n i
"""
_TITLES = """
All Always An And Answer Apply As Before But Check Define Do Each Every Example Examples For From Give Here How If In It
Keep Known Lesson Never No Not Note Now One Only Read Remember Rule See So Some Step Task The Then These This To Try Use
User We What When With Wrong You Your
"""
_LOWER = _ENGLISH.split()
WORDS = tuple(dict.fromkeys([*_LOWER, *(f"{word} " for word in _LOWER), *_PYTHON.split(), *_TITLES.split()]))
WORDS += tuple(f"{word} " for word in _TITLES.split())
