"""The code a fake model writes: for each question of the suite what a good model would write into the REPL."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from dszig_py.evals.templates import KINDS
from dszig_py.evals.words import PEOPLE

__all__ = ["CLASSIFY", "LOOK", "work"]

CLASSIFY = "Say of each numbered question what kind of answer it asks for"

LOOK = """\
print(type(context), len(context))
print(context[:400])
print("...")
print(context[len(context) // 2 : len(context) // 2 + 400])
print(question)"""

_NUMBER = Template("""\
import re
found = re.findall(r"special number for $key is (\\d+)", context)
print(found)
SUBMIT(answer=found[0] if found else "unknown")""")

_TRACKING = Template("""\
import re
held = set()
for name, copied, number in re.findall(r"VAR (\\w+) = (?:VAR (\\w+)|(\\d+))", context):
    if number == "$value" or copied in held:
        held.add(name)
print(held)
SUBMIT(answer=sorted(held))""")

_KV = Template("""\
table = dict(line.split(": ", 1) for line in context.splitlines() if ": " in line)
first = table.get("$key", "")
print(len(table), first)
SUBMIT(answer=table.get(first, "unknown"))""")

_FREQUENT = Template("""\
from collections import Counter
counts = Counter(context.split()).most_common(5)
print(counts)
SUBMIT(answer=[word for word, _ in counts[:3]])""")

_FACTS = Template("""\
import re
sentences = re.split(r"(?<=[.!?])\\s+", context)
about = [s for s in sentences if re.match(r"($people)\\b", s)]
print(len(sentences), len(about))
""")
_FACTS_ASKED = 'SUBMIT(answer=llm_query(f"{question}\\n\\nStatements in order:\\n" + "\\n".join(about)))'
_FACTS_PRINTED = 'print("\\n".join(about))'

_ITEMS = """\
import re
items = re.findall(r"^User (\\d+): (.+)$", context, re.M)
print(len(items), items[:3])
"""
_BY_MODEL = Template("""\
batches, size = [[]], 0
for number, (_, text) in enumerate(items):
    if size + len(text) + 12 > $batch_chars:
        batches.append([])
        size = 0
    batches[-1].append(f"{number}. {text}")
    size += len(text) + 12
head = '''$classify: $kinds.
Reply with one line for each, and nothing else: number: kind'''
replies = llm_query_batched([head + "\\n\\n" + "\\n".join(batch) for batch in batches])
kinds = {}
for reply in replies:
    if isinstance(reply, str):
        kinds.update((int(number), kind) for number, kind in re.findall(r"^(\\d+): (\\w+)$$", reply, re.M))
print(len(batches), "batches,", len(kinds), "of", len(items), "answered")
""")
# What can be done without reading: the words that each kind of question often begins with.
_BY_WORDS = r"""
def guess(text):
    text = text.lower()
    for kind, words in [("abbreviation", "stand for|short for|acronym|abbreviat|initials"),
                        ("number", "how many|how much|how long|how old|when|year|number|percent"),
                        ("person", "who|whom|whose"), ("location", "where|city|country|river|place"),
                        ("description", "why|how|what is|mean|describe")]:
        if re.search(rf"\b({words})\b", text):
            return kind
    return "entity"

kinds = {number: guess(text) for number, (_, text) in enumerate(items)}
"""
_COUNT = Template('SUBMIT(answer=sum(kind == "$kind" for kind in kinds.values()))')
_PAIRS = Template("""\
one = {int(items[n][0]) for n, kind in kinds.items() if kind == "$one"}
other = {int(items[n][0]) for n, kind in kinds.items() if kind == "$other"}
users = sorted(one | other)
pairs = [(a, b) for i, a in enumerate(users) for b in users[i + 1 :]
         if (a in one and b in other) or (b in one and a in other)]
SUBMIT(answer=pairs)""")

_PLAIN = {"number": _NUMBER, "tracking": _TRACKING, "kv": _KV, "frequent": _FREQUENT}


def work(name: str, words: Mapping[str, str], *, sub_calls: bool, batch_chars: int) -> str:
    """The cell that answers question ``name``. Where it asks no model and still has to read, it prints what to read."""
    if name in _PLAIN:
        return _PLAIN[name].substitute(words)
    if name in ("where", "before"):
        return _FACTS.substitute(people="|".join(PEOPLE)) + (_FACTS_ASKED if sub_calls else _FACTS_PRINTED)
    told = "; ".join(f"{kind} ({about})" for kind, about in KINDS.items())
    asked = _BY_MODEL.substitute(batch_chars=batch_chars, classify=CLASSIFY, kinds=told)
    end = (_COUNT if name == "count" else _PAIRS).substitute(words)
    return _ITEMS + (asked if sub_calls else _BY_WORDS) + end
