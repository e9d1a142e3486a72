"""What the stand-in reads off a contract: variables, outputs, and a plan of what each output takes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

__all__ = ["ASKING", "CONTRACT", "TEXT", "Contract", "Leaf", "plan_of", "read_contract"]


@dataclass(frozen=True, slots=True)
class _Variable:
    """An input as the contract shows it. ``kind``: text, bytes, items, keys, or other."""

    name: str
    type: str
    kind: str
    size: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value to fill in. ``high``, ``low``: a number's bounds; the most characters or items of what is cut."""

    kind: str
    options: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract read back from its text. ``outputs``: name -> a plan: nested dicts and lists of leaves."""

    task: str
    variables: tuple[_Variable, ...]
    batched: bool
    outputs: dict[str, Any]

    @property
    def sources(self) -> list[_Variable]:
        """What is searched: the inputs too big to be shown, else the biggest one that does not ask."""
        given = [v for v in self.variables if not re.fullmatch(ASKING, v.name) or v.size > _LONGEST_QUESTION]
        big = [v for v in given if not v.whole and v.kind != "other"]
        return big or sorted(given or self.variables, key=lambda v: -v.size)[:1]

    @property
    def queries(self) -> list[_Variable]:
        """What is asked: all the others."""
        sources = self.sources
        return [v for v in self.variables if v not in sources]


_LONGEST_QUESTION = 2_000

ASKING = "claim|goal|instructions?|problem|prompt|q|query|question|request|task|topic"

CONTRACT = re.compile(r"^Finish with SUBMIT\((.*)\)\.$", re.M)

_VARIABLE = re.compile(r"^  (\w+): (.*?), (shown whole|only a preview is shown)\b", re.M)

_UNITS = (("items", "items", 100), ("keys", "keys", 100), ("bytes", "bytes", 1), ("text", "characters", 1))


def read_contract(text: str) -> Contract:
    submit = list(CONTRACT.finditer(text))[-1]
    head = text[: submit.start()]
    start = max(head.rfind("Variables in the REPL:\n"), 0)
    task = head[:start].removeprefix("Task: ").strip()
    variables = tuple(_variable(match) for match in _VARIABLE.finditer(head, start))
    outputs = _outputs(submit[1], text[submit.end() :].partition("\n\n")[0])
    return Contract(task, variables, re.search(r"^  llm_query_batched\(", head, re.M) is not None, outputs)


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
        return {name: Leaf("text") for name in re.findall(r"(?:^|, )(\w+): ", fields)}
    outputs: dict[str, Any] = {}
    for argument in function.args.args:
        schema = _shown_schema(argument.arg, details) or _schema_of(argument.annotation)
        outputs[argument.arg] = plan_of(schema, schema)
    return outputs


def _shown_schema(name: str, details: str) -> dict[str, Any] | None:
    own = re.split(rf"^  {name}: ", details, maxsplit=1, flags=re.M)
    try:
        return json.JSONDecoder().raw_decode(own[-1].split("JSON schema ", 1)[1])[0] if len(own) > 1 else None
    except (ValueError, IndexError):  # cut off for its length, or there is none
        return None


TEXT, _NUMBER, _ARRAY, _OBJECT = ({"type": kind} for kind in ("string", "number", "array", "object"))

_DAY = {"type": "string", "format": "date"}

_NAMED: dict[str, dict[str, Any]] = {
    "File": {"type": "string", "format": "file"},
    **dict.fromkeys(("str", "bytes", "bytearray", "Any", "object"), TEXT),
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


def plan_of(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Any:
    """What to fill in: required fields of objects, leaves; ``None`` for what is not known or goes round in circles."""
    s: dict[str, Any] = dict(schema)
    if depth > _DEEPEST:
        return None
    if "$ref" in s:
        return plan_of(root.get("$defs", {}).get(str(s["$ref"]).rpartition("/")[2], {}), root, depth + 1)
    if "const" in s or s.get("enum"):
        return Leaf("choice", tuple(s.get("enum") or [s["const"]]))
    kind: Any = s.get("type")
    if isinstance(kind, list):
        return _plan_union([{**s, "type": one} for one in cast("list[str]", kind)], root, depth)
    if several := s.get("anyOf") or s.get("oneOf") or s.get("allOf"):
        return _plan_union(several, root, depth)
    if kind == "object" or "properties" in s:
        return {name: plan_of(s.get("properties", {}).get(name, {}), root, depth + 1) for name in s.get("required", ())}
    return _plan_array(s, root, depth) if kind == "array" else _plan_scalar(s, kind)


def _plan_union(several: Sequence[Mapping[str, Any]], root: Mapping[str, Any], depth: int) -> Any:
    plans = [plan_of(one, root, depth + 1) for one in several if one.get("type") != "null"]
    first = next((plan for plan in plans if plan is not None), None)
    return replace(first, optional=True) if isinstance(first, Leaf) and len(plans) < len(several) else first


def _plan_array(s: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if "prefixItems" in s:
        return [plan_of(item, root, depth + 1) for item in s["prefixItems"]]
    low: int = s.get("minItems", 0)
    item = plan_of(s.get("items", {}), root, depth + 1)
    for kind in ("text", "integer", "number"):
        if item == Leaf(kind) and not low:
            return Leaf(f"{kind}s", high=s.get("maxItems"))
    return [item] * low


def _plan_scalar(s: Mapping[str, Any], kind: Any) -> Any:
    if kind == "string":
        format_ = str(s.get("format"))
        return (
            Leaf("file")
            if format_ == "file"
            else Leaf("day" if format_[:4] == "date" else "text", high=s.get("maxLength"))
        )
    if kind in ("integer", "number"):
        step = 1 if kind == "integer" else 1e-6
        low = s["exclusiveMinimum"] + step if "exclusiveMinimum" in s else s.get("minimum")
        high = s["exclusiveMaximum"] - step if "exclusiveMaximum" in s else s.get("maximum")
        return Leaf(kind, low=low, high=high)
    return Leaf("boolean") if kind == "boolean" else None
