"""A stand-in that needs no key and no network: it writes real REPL code, but there is no model behind it.

Asked to decide, it writes code that ranks passages of the inputs with BM25, asks itself about the best ones and submits
typed outputs. Asked anything else, it quotes the sentences of the prompt that match the question in it best.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from string import Template
from typing import Any, cast

from dszig_py.lm.base import Message, Reply, Request, estimated_usage
from dszig_py.prompts import EXTRACTION, LAST, TYPED

__all__ = ["OfflineLM"]

WHO = "Offline stand-in: no model is at work here, only an extractive search."
NOTHING = "nothing relevant"
NOTHING_FOUND = "Nothing in the inputs matches the question."
ASK = f"Copy the one to three sentences of the passage that best answer the question, one a line, or reply: {NOTHING}."
MOST_CHARS = 1_000  # a text output stays under this
MOST_PASSAGES = 6
MOST_SENTENCES = 6

COMMON = """\
a about all an and any are as at be been but by can could did do does for from get give had has have how i if in into
is it its let me my no not of on or our please say says should so some tell than that the their them then there these
they this to us was we were what when where which who whom whose why will would you your"""

SEARCH = Template(r'''
texts, query = $texts, $query

import math
import re
from collections import Counter, defaultdict

COMMON = set("""
$common
""".split())

def words(text):
    """Words in lower case without common ones and plural s, and each neighbouring pair of them."""
    # Chinese and Japanese put no spaces between words: there each character counts as one.
    found = re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+", text.lower())
    kept = [word.rstrip("s") if len(word) > 3 else word for word in found if word not in COMMON]
    return kept + [f"{one} {two}" for one, two in zip(kept, kept[1:])]

def last_break(text, low, high):
    """Where the last paragraph, line or sentence between low and high ends; high if none does."""
    for mark in ("\n\n", "\n", ". "):
        at = text.rfind(mark, low, high)
        if at >= 0:
            return at + len(mark)
    return high

def passages(text):
    """(start, end) of pieces of about 1,200 characters that overlap a little."""
    start = 0
    while len(text) - start > 1400:
        end = last_break(text, start + 800, start + 1400)
        yield start, end
        start = last_break(text, end - 300, end - 100)
    yield start, len(text)

# Where nothing asks, the frequent words of the text say what it is about.
frequent = Counter(words(" ".join(text[:20_000] for text in texts[:10]))).most_common(8)
terms = $terms

# First pass, cheap enough for hundreds of megabytes: which words does each passage hold?
singles = sorted((term for term in terms if " " not in term), key=len)[-16:]
holding, total = defaultdict(list), 0
for number, text in enumerate(texts):
    for start, end in passages(text):
        lowered = text[start:end].lower()
        holding[tuple(word for word in singles if word in lowered)].append((number, start, end))
        total += 1
holding.pop((), None)

def rarity(count):
    return math.log(1 + total / (1 + count))

held = Counter()
for group, places in holding.items():
    held.update({word: len(places) for word in group})
groups = sorted(holding, key=lambda group: -sum(rarity(held[word]) for word in group))
candidates = [place for group in groups for place in holding[group]][:2000]

# Second pass: BM25 over the candidates.
counted = [Counter(words(texts[number][start:end])) for number, start, end in candidates]
average = sum(counts.total() for counts in counted) / max(len(counted), 1)
weight = {term: rarity(sum(term in counts for counts in counted)) for term in terms}

def bm25(counts):
    damping = 1.2 * (0.25 + 0.75 * counts.total() / max(average, 1))
    return sum(weight[term] * 2.2 * counts[term] / (counts[term] + damping) for term in terms)

scores = [bm25(counts) for counts in counted]
found = []
for i in sorted(range(len(scores)), key=lambda i: -scores[i])[:$most]:
    if scores[i] > 0:
        number, start, end = candidates[i]
        found.append(texts[number][start:end])
        print(f"score {scores[i]:.1f}: text {number}, characters {start:,} to {end:,}")
print(f"{total:,} passages, {len(candidates):,} candidates, {len(found)} taken")
''')

SUB_CALLS = Template(r"""
ask = "$ask"
prompts = [f"{ask}\n\nQuestion: {query[:2000]}\n\nPassage:\n{passage}" for passage in found]
answers = llm_query_batched(prompts)
useful = [answer for answer in answers if isinstance(answer, str) and "$nothing" not in answer.lower()]
quotes = [line for answer in useful for line in answer.splitlines() if line.strip()]
for quote in quotes:
    print("-", quote)
print(f"{len(useful)} of {len(answers)} sub-calls gave something")
""")

NO_SUB_CALLS = """
quotes = []  # no sub-calls can be made: the passages themselves have to do
"""

CHOOSE = Template(r'''
def sentences(text):
    """Sentences, or lines where no sentence ends for long; rulers under headings end them too."""
    for piece in re.split(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n|\n\W{4,}\n", text):
        for part in [piece] if len(piece) < 400 else re.findall(r"[^\n]{1,350}\S{0,50}", piece):
            if part.strip():
                yield " ".join(part.split())

pool = dict.fromkeys(sentence for text in quotes or found for sentence in sentences(text))
# What has no end is a heading, or leads up to something that would be missing.
value = {s: bm25(Counter(words(s))) * (1 if s.endswith((".", "!", "?", "。")) else 0.5) for s in pool}
enough = 0.5 * max(value.values(), default=0)
best = []
for sentence in pool:  # in the order of the passages they are from
    if value[sentence] >= enough > 0 and len(best) < $sentences and len(" ".join([*best, sentence])) < $chars:
        best.append(sentence)
text = " ".join(best) or "$nothing"
''')

NUMBERS = r"""
plain = re.sub(r"(?<=\d),(?=\d{3})", "", text)
numbers = [float(n) for n in re.findall(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?!\w)", plain)]
number = Counter(numbers).most_common(1)[0][0] if numbers else 0
"""

DAYS = r"""
days = re.findall(r"\b[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b", text)
day = days[0] if days else "1970-01-01"
"""

CLOSEST = r'''
def closest(options):
    """The option that is named most often near the answer; the first if none is."""
    near = " ".join([text, *found]).lower()
    return max(options, key=lambda option: len(re.findall(rf"\b{re.escape(str(option).lower())}\b", near)))
'''


class OfflineLM:
    """No model: an extractive search that writes real code. Deterministic, free, and without a network."""

    @property
    def model(self) -> str:
        """Always ``"offline"``."""
        return "offline"

    async def price_known(self) -> bool:
        """It costs nothing, and that is known."""
        return True

    async def complete(self, request: Request) -> Reply:
        """The same reply to the same request, always."""
        text = _reply(request)
        return Reply(text, estimated_usage(request, text, cost=0.0, seconds=0.0), self.model, "stop")

    def __repr__(self) -> str:
        return "OfflineLM()"


def _reply(request: Request) -> str:
    messages = request.messages
    if len(messages) > 1 and messages[0].role == "system" and _CONTRACT.search(messages[1].content):
        return _decision(request)
    asked = "\n\n".join(m.content for m in messages if m.role == "user")
    if asked.startswith(EXTRACTION.partition(".")[0]) and _CONTRACT.search(asked):
        return _extraction(asked)
    if asked.startswith(ASK):
        question, _, passage = asked.removeprefix(ASK).strip().removeprefix("Question: ").partition("\n\nPassage:\n")
        return "\n".join(_matching(passage, question)[:3]) or NOTHING
    task, typed, _ = (messages[0].content if messages else "").partition(TYPED.partition("\n")[0])
    found = _found_in(asked, task.strip() if typed else "")
    schema = _wanted(request.schema, asked)
    return found.text if schema is None else json.dumps(_fill(_plan(schema, schema), found), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Variable:
    """An input as the contract shows it. ``kind``: text, bytes, items, keys, or other."""

    name: str
    type: str
    kind: str
    size: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One value to fill in. ``high``, ``low``: a number's bounds; the most characters or items of what is cut."""

    kind: str
    options: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class _Contract:
    """A contract read back from its text. ``outputs``: name -> a plan: nested dicts and lists of leaves."""

    task: str
    variables: tuple[_Variable, ...]
    batched: bool
    outputs: dict[str, Any]

    @property
    def sources(self) -> list[_Variable]:
        """What is searched: the inputs too big to be shown, else the biggest one that does not ask."""
        given = [v for v in self.variables if not re.fullmatch(_ASKING, v.name) or v.size > _LONGEST_QUESTION]
        big = [v for v in given if not v.whole and v.kind != "other"]
        return big or sorted(given or self.variables, key=lambda v: -v.size)[:1]

    @property
    def queries(self) -> list[_Variable]:
        """What is asked: all the others."""
        sources = self.sources
        return [v for v in self.variables if v not in sources]


_LONGEST_QUESTION = 2_000
_ASKING = "claim|goal|instructions?|problem|prompt|q|query|question|request|task|topic"
_CONTRACT = re.compile(r"^Finish with SUBMIT\((.*)\)\.$", re.M)
_VARIABLE = re.compile(r"^  (\w+): (.*?), (shown whole|only a preview is shown)\b", re.M)
_UNITS = (("items", "items", 100), ("keys", "keys", 100), ("bytes", "bytes", 1), ("text", "characters", 1))


def _contract(text: str) -> _Contract:
    submit = list(_CONTRACT.finditer(text))[-1]
    head = text[: submit.start()]
    start = max(head.rfind("Variables in the REPL:\n"), 0)
    task = head[:start].removeprefix("Task: ").strip()
    variables = tuple(_variable(match) for match in _VARIABLE.finditer(head, start))
    outputs = _outputs(submit[1], text[submit.end() :].partition("\n\n")[0])
    return _Contract(task, variables, re.search(r"^  llm_query_batched\(", head, re.M) is not None, outputs)


def _variable(match: re.Match[str]) -> _Variable:
    name, about, shown = match.groups()
    whole = shown == "shown whole"
    for kind, unit, scale in _UNITS:
        if size := re.search(rf"(?:^|, )([\d,]+) {unit}(?:$|, )", about):
            chars = re.search(r"([\d,]+) characters in all", about)
            number = int(chars[1].replace(",", "")) if chars else int(size[1].replace(",", "")) * scale
            return _Variable(name, about, kind, number, whole)
    return _Variable(name, about, "other", 0, whole)


def _outputs(fields: str, details: str) -> dict[str, Any]:
    try:
        function = cast("ast.FunctionDef", ast.parse(f"def SUBMIT({fields}): ...").body[0])
    except SyntaxError:  # a type whose name is no Python: the names must do
        return {name: _Leaf("text") for name in re.findall(r"(?:^|, )(\w+): ", fields)}
    outputs: dict[str, Any] = {}
    for argument in function.args.args:
        schema = _shown_schema(argument.arg, details) or _schema_of(argument.annotation)
        outputs[argument.arg] = _plan(schema, schema)
    return outputs


def _shown_schema(name: str, details: str) -> dict[str, Any] | None:
    own = re.split(rf"^  {name}: ", details, maxsplit=1, flags=re.M)
    try:
        return json.JSONDecoder().raw_decode(own[-1].split("JSON schema ", 1)[1])[0] if len(own) > 1 else None
    except (ValueError, IndexError):  # cut off for its length, or there is none
        return None


_TEXT, _NUMBER, _ARRAY, _OBJECT = ({"type": kind} for kind in ("string", "number", "array", "object"))
_DAY = {"type": "string", "format": "date"}
_NAMED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("str", "bytes", "bytearray", "Any", "object"), _TEXT),
    **dict.fromkeys(("float", "Decimal", "complex", "timedelta"), _NUMBER),
    **dict.fromkeys(("list", "set", "frozenset", "tuple", "Sequence"), _ARRAY),
    **dict.fromkeys(("dict", "Mapping"), _OBJECT),
    **dict.fromkeys(("date", "datetime"), _DAY),
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "time": {"const": "00:00:00"},
    "UUID": {"const": "00000000-0000-0000-0000-000000000000"},
}


def _schema_of(node: ast.expr | None) -> dict[str, Any]:
    """The JSON schema of a written type; ``{}`` for one that is not known."""
    match node:
        case ast.Name(id=name):
            return _NAMED.get(name, {})
        case ast.Constant(value=None):
            return {"type": "null"}
        case ast.BinOp(left=left, right=right):
            return {"anyOf": [_schema_of(left), _schema_of(right)]}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return {"enum": [_literal(arg) for arg in _elements(inner)]}
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            args = _elements(inner)
            fixed = name == "tuple" and not (len(args) > 1 and isinstance(args[1], ast.Constant))
            inside = {"prefixItems": [_schema_of(arg) for arg in args]} if fixed else {"items": _schema_of(args[0])}
            return {**_NAMED.get(name, {}), **inside}
        case _:
            return {}


def _elements(inner: ast.expr) -> list[ast.expr]:
    return inner.elts if isinstance(inner, ast.Tuple) else [inner]


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:  # an enum's member
        return ast.unparse(node).rpartition(".")[2]


_DEEPEST = 8


def _plan(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Any:
    """What to fill in: required fields of objects, leaves; ``None`` for what is not known or goes round in circles."""
    s: dict[str, Any] = dict(schema)
    if depth > _DEEPEST:
        return None
    if "$ref" in s:
        return _plan(root.get("$defs", {}).get(str(s["$ref"]).rpartition("/")[2], {}), root, depth + 1)
    if "const" in s or s.get("enum"):
        return _Leaf("choice", tuple(s.get("enum") or [s["const"]]))
    kind: Any = s.get("type")
    if isinstance(kind, list):
        return _plan_union([{**s, "type": one} for one in cast("list[str]", kind)], root, depth)
    if several := s.get("anyOf") or s.get("oneOf") or s.get("allOf"):
        return _plan_union(several, root, depth)
    if kind == "object" or "properties" in s:
        return {name: _plan(s.get("properties", {}).get(name, {}), root, depth + 1) for name in s.get("required", ())}
    return _plan_array(s, root, depth) if kind == "array" else _plan_scalar(s, kind)


def _plan_union(several: Sequence[Mapping[str, Any]], root: Mapping[str, Any], depth: int) -> Any:
    plans = [_plan(one, root, depth + 1) for one in several if one.get("type") != "null"]
    first = next((plan for plan in plans if plan is not None), None)
    return replace(first, optional=True) if isinstance(first, _Leaf) and len(plans) < len(several) else first


def _plan_array(s: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if "prefixItems" in s:
        return [_plan(item, root, depth + 1) for item in s["prefixItems"]]
    low: int = s.get("minItems", 0)
    item = _plan(s.get("items", {}), root, depth + 1)
    for kind in ("text", "integer", "number"):
        if item == _Leaf(kind) and not low:
            return _Leaf(f"{kind}s", high=s.get("maxItems"))
    return [item] * low


def _plan_scalar(s: Mapping[str, Any], kind: Any) -> Any:
    if kind == "string":
        return _Leaf("day" if str(s.get("format")).startswith("date") else "text", high=s.get("maxLength"))
    if kind in ("integer", "number"):
        step = 1 if kind == "integer" else 1e-6
        low = s["exclusiveMinimum"] + step if "exclusiveMinimum" in s else s.get("minimum")
        high = s["exclusiveMaximum"] - step if "exclusiveMaximum" in s else s.get("maximum")
        return _Leaf(kind, low=low, high=high)
    return _Leaf("boolean") if kind == "boolean" else None


def _decision(request: Request) -> str:
    """The next action: look, search, submit; in the last iteration all that is still to be done."""
    contract = _contract(request.messages[1].content)
    said, seen = request.messages[2::2], request.messages[3::2]
    searched = [number for number, message in enumerate(said) if "def passages(text)" in message.content]
    if searched:
        failed = searched[-1] < len(said) - 1 or any(re.search("^Traceback", m.content, re.M) for m in seen[-1:])
        if failed:
            return _action("That did not work, so I submit what was found until then.", _plain_submit(contract, seen))
        return _action("I submit the sentences that hold most of the question.", _submit(contract))
    search = _search(contract, request.remaining)
    if LAST in request.remaining:
        return _action("I rank the passages with BM25 and submit at once.", search, _submit(contract))
    if not said:
        return _action("First a look at the variables.", _look(contract))
    return _action("I rank the passages with BM25 and ask about the best ones.", search)


def _action(reasoning: str, *cells: str) -> str:
    return "\n\n".join([f"{WHO} {reasoning}", *(f"```python\n{cell.strip()}\n```" for cell in cells)])


def _look(contract: _Contract) -> str:
    lines: list[str] = []
    for v in contract.variables:
        what = [f'"{v.name}:"', f"type({v.name}).__name__"]
        if v.kind == "other":
            what.append(f"repr({v.name})[:300]")
        elif v.kind in ("text", "bytes"):
            what += [f"len({v.name})", f"{v.name}[:150]", *([f"{v.name}[-150:]"] if v.size > 150 else [])]
        else:
            what += [f"len({v.name})", f"repr(next(iter({v.name}), None))[:300]"]
        lines.append(f'print({", ".join(what)}, sep="\\n  ")')
    return "\n".join(lines) or "SHOW_VARS()"


_AS_TEXTS = {
    "text": "{0}",
    "bytes": '{0}.decode("utf-8", "replace")',
    "items": "*map(str, {0})",
    "keys": '*(f"{{key}}: {{value}}" for key, value in {0}.items())',
    "other": "str({0})",
}
_TERMS_ASKED = "list(dict.fromkeys(words(query[:2000]))) or [word for word, _ in frequent]"
_TERMS = "list(dict.fromkeys([*words(query), *(word for word, _ in frequent)]))"


def _search(contract: _Contract, remaining: str) -> str:
    texts: list[str] = []
    for v in contract.sources:
        unordered = v.type.startswith(("set", "frozenset"))  # their order changes from process to process
        texts.append(("*sorted(map(str, {0}))" if unordered else _AS_TEXTS[v.kind]).format(v.name))
    asked = [v.name if v.kind == "text" else f"str({v.name})" for v in contract.queries]
    query = f'" ".join([{", ".join(asked)}])' if len(asked) > 1 else "".join(asked) or repr(contract.task[:500])
    left = re.search(r"(\d+) sub-call", remaining)
    calls = min(int(left[1]) if left else MOST_PASSAGES, MOST_PASSAGES) if contract.batched else 0
    terms = _TERMS_ASKED if asked else _TERMS
    shown = {"texts": f"[{', '.join(texts)}]", "query": query, "terms": terms, "common": COMMON}
    search = SEARCH.substitute(shown, most=calls or MOST_PASSAGES)
    return search + (SUB_CALLS.substitute(ask=ASK, nothing=NOTHING) if calls else NO_SUB_CALLS)


def _submit(contract: _Contract) -> str:
    values = {name: _source(plan) for name, plan in contract.outputs.items()}
    parts = [CHOOSE.substitute(sentences=MOST_SENTENCES, chars=MOST_CHARS, nothing=NOTHING_FOUND)]
    helpers = (("number", NUMBERS), ("day", DAYS), ("closest(", CLOSEST))
    parts += [helper for word, helper in helpers if any(word in value for value in values.values())]
    return "".join([*parts, "\n", _call(values)])


def _call(values: Mapping[str, str]) -> str:
    arguments = [f"{name}={value}" for name, value in values.items()]
    line = f"SUBMIT({', '.join(arguments)})"
    return line if len(line) < 100 else "\n".join(["SUBMIT(", *(f"    {argument}," for argument in arguments), ")"])


def _source(plan: Any) -> str:
    """Python that builds a plan's value from the variables of the search."""
    if isinstance(plan, dict):
        return f"{{{', '.join(f'{k!r}: {_source(v)}' for k, v in cast('dict[str, Any]', plan).items())}}}"
    if isinstance(plan, list):
        return f"[{', '.join(_source(item) for item in cast('list[Any]', plan))}]"
    if not isinstance(plan, _Leaf):
        return "None"
    cut = "" if plan.high is None else f"[:{int(plan.high)}]"
    source = {
        "text": f"text{cut}",
        "texts": f"best{cut}",
        "integer": _bounded("int(number)", plan),
        "integers": f"[int(number) for number in numbers{cut}]",
        "number": _bounded("float(number)", plan),
        "numbers": f"numbers{cut}",
        "boolean": "bool(best)",
        "day": "day",
        "choice": f"closest({list(plan.options)!r})",
    }[plan.kind]
    return f"{source} if best else None" if plan.optional else source


def _bounded(source: str, plan: _Leaf) -> str:
    if plan.low is not None:
        source = f"max({source}, {plan.low!r})"
    return source if plan.high is None else f"min({source}, {plan.high!r})"


def _plain_submit(contract: _Contract, seen: Sequence[Message]) -> str:
    """SUBMIT of literals: it needs nothing that may have gone wrong or got lost."""
    found = _Found(tuple(_noted("\n".join(m.content for m in seen))))
    return _call({name: repr(_fill(plan, found)) for name, plan in contract.outputs.items()})


def _extraction(asked: str) -> str:
    """One JSON object from what the history shows; ``null`` where it shows nothing."""
    head, _, done = asked.partition("\n\nWhat was done:\n")
    found = _Found(tuple(_noted(done)))
    outputs = _contract(head).outputs
    filled = {name: _fill(plan, found) if found.sentences else None for name, plan in outputs.items()}
    return json.dumps(filled, ensure_ascii=False)


def _noted(observations: str) -> Iterator[str]:
    """The sentences that sub-calls gave, as the search prints them."""
    for line in observations.splitlines():
        if line.startswith("- "):
            yield from _sentences(line.removeprefix("- "))


@dataclass(frozen=True, slots=True)
class _Found:
    """The sentences found, best first, and what can be read off them."""

    sentences: tuple[str, ...]

    @property
    def best(self) -> list[str]:
        best: list[str] = []
        for sentence in dict.fromkeys(self.sentences[:MOST_SENTENCES]):
            if len(" ".join([*best, sentence])) < MOST_CHARS:
                best.append(sentence)
        return best

    @property
    def text(self) -> str:
        return " ".join(self.best) or NOTHING_FOUND

    @property
    def numbers(self) -> list[float]:
        plain = re.sub(r"(?<=\d),(?=\d{3})", "", self.text)
        return [float(n) for n in re.findall(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?!\w)", plain)]


def _fill(plan: Any, found: _Found) -> Any:
    """A plan's value as JSON data."""
    if isinstance(plan, dict):
        return {name: _fill(item, found) for name, item in cast("dict[str, Any]", plan).items()}
    if isinstance(plan, list):
        return [_fill(item, found) for item in cast("list[Any]", plan)]
    if not isinstance(plan, _Leaf) or (plan.optional and not found.sentences):
        return None
    most = None if plan.high is None else int(plan.high)
    match plan.kind:
        case "text":
            return found.text[:most]
        case "texts":
            return found.best[:most]
        case "integers":
            return [int(number) for number in found.numbers[:most]]
        case "numbers":
            return found.numbers[:most]
        case "boolean":
            return bool(found.sentences)
        case "day":
            days = re.findall(r"\b[12]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b", found.text)
            return days[0] if days else "1970-01-01"
        case "choice":
            return max(plan.options, key=lambda option: found.text.lower().count(str(option).lower()))
        case _:
            return _number(plan, found)


def _number(plan: _Leaf, found: _Found) -> float:
    number = found.numbers[0] if found.numbers else 0.0
    if plan.low is not None:
        number = max(number, plan.low)
    if plan.high is not None:
        number = min(number, plan.high)
    return int(number) if plan.kind == "integer" else number


_COMMON = frozenset(COMMON.split())


def _words(text: str) -> list[str]:
    """As the search counts them: without common ones and plural s, and with neighbouring pairs."""
    words = re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+", text.lower())
    kept = [word.rstrip("s") if len(word) > 3 else word for word in words if word not in _COMMON]
    return [*kept, *(f"{one} {two}" for one, two in pairwise(kept))]


def _sentences(text: str) -> Iterator[str]:
    for piece in re.split(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n|\n\W{4,}\n", text):
        for part in [piece] if len(piece) < 400 else re.findall(r"[^\n]{1,350}\S{0,50}", piece):
            if part.strip():
                yield " ".join(part.split())


def _matching(text: str, question: str) -> list[str]:
    """Sentences of ``text`` that hold words of ``question``, best first; none that is far from the best."""
    terms = list(dict.fromkeys(_words(question[:2_000])))
    pool = {sentence: Counter(_words(sentence)) for sentence in dict.fromkeys(_sentences(text))}
    held = Counter(term for counts in pool.values() for term in terms if term in counts)
    rarity = {term: math.log(1 + len(pool) / (1 + held[term])) for term in terms}
    average = sum(counts.total() for counts in pool.values()) / max(len(pool), 1)

    def bm25(counts: Counter[str]) -> float:
        damping = 1.2 * (0.5 + 0.5 * counts.total() / max(average, 1))
        return sum(rarity[term] * 2.2 * counts[term] / (counts[term] + damping) for term in terms)

    value = {s: bm25(counts) * (1 if s.endswith((".", "!", "?", "。")) else 0.5) for s, counts in pool.items()}
    ranked = sorted(pool, key=lambda sentence: -value[sentence])
    return [sentence for sentence in ranked if value[sentence] > 0.4 * value[ranked[0]]]


def _found_in(prompt: str, task: str) -> _Found:
    """What a prompt holds on the question in it, or on the task; where nothing matches, how its text begins."""
    question, rest = _question(prompt, task)
    rest = re.sub(r"^\w+:[ \t]*\n", "\n\n", rest, flags=re.M)  # labels of what follows
    return _Found(tuple(_matching(rest, question) or islice(_sentences(rest if rest.strip() else prompt), 3)))


_LABELLED = re.compile(rf"^[ \t]*(?:{_ASKING})[ \t]*:\s*(\S.*)$", re.I | re.M)


def _question(prompt: str, task: str) -> tuple[str, str]:
    """What asks, and everything else: a labelled line, the task, a line that ends like one that asks, the last line."""
    if labelled := _LABELLED.search(prompt):
        return labelled[1], prompt[: labelled.start()] + prompt[labelled.end() :]
    if task:
        return task, prompt
    lines = [line for line in prompt.splitlines() if line.strip()]
    if not lines:
        return "", ""
    first, last = lines[0].rstrip(), lines[-1].rstrip()
    if not last.endswith("?") and first.endswith(("?", ":")):
        return first, "\n".join(prompt.splitlines()[1:])
    return last, prompt[: prompt.rindex(last)]


def _wanted(schema: Mapping[str, Any] | None, prompt: str) -> Mapping[str, Any] | None:
    """The JSON schema a reply is to follow: given with the request, or of texts under the keys the prompt names."""
    if schema is not None:
        for wrapper in ("json_schema", "schema"):  # as providers take it
            schema = cast("Mapping[str, Any]", schema[wrapper]) if wrapper in schema else schema
        return schema
    if not re.search(r"\bJSON\b", prompt):
        return None
    named = re.search(r"\bkeys?\b[ :]+([^.;\n]{1,300})", prompt)
    names = re.findall(r"\b[A-Za-z_]\w*\b", named[1]) if named else re.findall(r'"(\w+)"\s*:', prompt)
    names = [name for name in dict.fromkeys(names) if name not in ("and", "or", "are")]
    return {"required": names, "properties": dict.fromkeys(names, _TEXT)} if names else None
