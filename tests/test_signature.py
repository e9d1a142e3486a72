"""What a signature is read from, what it refuses and how it says so."""

# ruff: noqa: UP006, UP007, UP045 - typing's old spellings are part of what is read and shown.
from __future__ import annotations

import datetime as dt
import enum
import subprocess
import sys
import types as pytypes
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union
from uuid import UUID

import pytest
from annotated_types import Ge, Le, MaxLen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter
from pydantic import Field as PydanticField

from dszig_py.errors import SignatureError
from dszig_py.signature import REPL_NAMES, Field, InputField, OutputField, Signature, type_text


class Invoice(BaseModel):
    total: float


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int


GIVEN: dict[str, Any] = {"Invoice": Invoice, "Color": Color, "Point": Point}


def type_of(text: str, **given: Any) -> Any:
    return Signature.parse(f"-> out: {text}", types=given).outputs[0].type


def names(fields: Sequence[Field]) -> list[str]:
    return [field.name for field in fields]


def test_fields_without_a_type_are_str() -> None:
    """The shortest form gives names in order, typed str, with nothing else set."""
    assert Signature.parse("context, question -> answer") == Signature(
        (Field("context", str), Field("question", str)), (Field("answer", str),)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("str", str),
        ("list", list),
        ("list[dict[str, int]]", list[dict[str, int]]),
        ("Literal['a','b']", Literal["a", "b"]),
        ("Literal[-1, 0, True, None, b'x']", Literal[-1, 0, True, None, b"x"]),
        (r"""Literal['a -> b', "c, d: [e", 'it\'s', "(", '#']""", Literal["a -> b", "c, d: [e", "it's", "(", "#"]),
        ("Optional[int]", Optional[int]),
        ("Union[int, str, None]", int | str | None),
        ("int | list[str] | None", int | list[str] | None),
        ("Literal['a'] | None", Optional[Literal["a"]]),
        ("datetime", dt.datetime),
        ("datetime.datetime", dt.datetime),
        ("date | time | timedelta", dt.date | dt.time | dt.timedelta),
        ("Decimal", Decimal),
        ("UUID", UUID),
        ("bytes", bytes),
        ("set[int]", set[int]),
        ("frozenset[str]", frozenset[str]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("tuple[int, str]", tuple[int, str]),
        ("tuple[()]", tuple[()]),
        ("Any", Any),
        ("None", type(None)),
        ("List[Dict[str, Tuple[int, ...]]]", list[dict[str, tuple[int, ...]]]),
        ("Set[int]", set[int]),
        ("FrozenSet[int]", frozenset[int]),
        ("typing.Optional[typing.List[int]]", Optional[list[int]]),
        ("t.Literal['x']", Literal["x"]),
        ("Sequence[Mapping[str, int]]", Sequence[Mapping[str, int]]),
        ("(int)", int),
        ("list[\n  int\n]", list[int]),
        (" | ".join(["int", "str"] * 400), int | str),
    ],
)
def test_types_are_read(text: str, expected: Any) -> None:
    """Every type the table promises is read to the very type Python would give."""
    assert type_of(text) == expected


def test_given_classes_are_read_in_every_position() -> None:
    """Names in ``types`` stand for classes: bare, nested, in unions, and Enum members in Literal."""
    assert type_of("Invoice", **GIVEN) is Invoice
    assert type_of("dict[str, list[Point]] | None", **GIVEN) == dict[str, list[Point]] | None
    assert type_of("Literal[Color.RED]", **GIVEN) == Literal[Color.RED]


def test_dotted_names_reach_only_into_given_objects() -> None:
    """``module.Class`` works for a module that was given, never for one that merely could be imported."""
    module = pytypes.SimpleNamespace(Image=Invoice, sub=pytypes.SimpleNamespace(Audio=Point), _private=Point)
    assert type_of("list[dspy.Image]", dspy=module) == list[Invoice]
    assert type_of("dspy.sub.Audio", dspy=module) is Point
    for text in ("dspy.Image", "os.PathLike", "dspy._private", "dspy.__class__", "Invoice.__base__"):
        with pytest.raises(SignatureError, match="no type is called"):
            type_of(text, **({"dspy": module, **GIVEN} if "_" in text else {}))


def test_given_names_win_but_given_modules_do_not_hide_a_type() -> None:
    """A class overrides the table; ``types=globals()`` with ``import datetime`` in it still reads ``datetime``."""
    assert type_of("date", date=Point) is Point
    assert type_of("datetime", datetime=dt) is dt.datetime
    assert type_of("datetime.date", datetime=dt) is dt.date
    assert type_of("datetime.datetime", datetime=dt.datetime) is dt.datetime


def test_generic_user_classes_take_brackets() -> None:
    """A given generic class is subscripted by its own rules, and its refusal becomes a SignatureError."""
    T = t.TypeVar("T")

    class Box(BaseModel, t.Generic[T]):
        item: T

    assert type_of("Box[int]", Box=Box) is Box[int]
    assert type_text(Box[int]) == "Box[int]"
    with pytest.raises(SignatureError, match=r"'out'.*Invoice does not take"):
        type_of("Invoice[int]", **GIVEN)


def test_whitespace_newlines_and_trailing_commas_are_free() -> None:
    """Layout carries no meaning."""
    loose = Signature.parse("\n  context : str ,\n question,\n ->\n answer: list[\n int ,\n ],\n")
    assert loose == Signature.parse("context: str, question: str -> answer: list[int]")


def test_no_inputs_are_allowed() -> None:
    """``-> answer`` is a signature, and reads back as one."""
    signature = Signature.parse("-> answer")
    assert signature.inputs == () and names(signature.outputs) == ["answer"]
    assert str(signature) == "-> answer: str"


def test_ordinary_words_are_field_names() -> None:
    """Names of builtins and types are fields like any other, and do not change what the types mean."""
    signature = Signature.parse("list: list[int], type, id, input, history, query, str: int, match -> context: str")
    assert [f.type for f in signature.inputs] == [list[int], str, str, str, str, str, int, str]
    assert signature.outputs == (Field("context", str),)


def test_names_are_read_as_python_reads_them() -> None:
    """Identifiers are NFKC-normalised, so that code in the REPL can name the variable."""
    assert names(Signature.parse("\ufb01le -> größe").inputs) == ["file"]


def test_instructions_are_kept() -> None:
    """``instructions`` given to parse and of reach the signature."""
    assert Signature.parse("a -> b", instructions="Be brief.").instructions == "Be brief."
    assert Signature.of("a -> b", instructions="Be brief.") == Signature.parse("a -> b", instructions="Be brief.")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no '->'"),
        ("question", "no '->'"),
        ("a: Literal['->']", "no '->'"),
        ("a -> b -> c", "2 times '->'"),
        ("a ->", "no outputs"),
        ("->", "no outputs"),
        ("a, a -> b", "'a' is declared twice"),
        ("a -> a", "'a' is declared twice"),
        ("a,, b -> c", "no name"),
        (", -> c", "no name"),
        (": str -> c", "no name"),
        ("a b -> c", "'a b' is not an identifier.*'a_b'"),
        ("1a -> c", "'1a' is not an identifier"),
        ("list[int] -> c", "not an identifier"),
        ("class -> c", "'class' is a Python keyword.*'class_'"),
        ("None -> c", "keyword"),
        ("__x -> c", "'__x' begins with two underscores"),
        ("a: -> c", "'a' has ':' but no type"),
        ("a: foo -> c", r"'a'.*'foo'.*types=\{\"foo\": foo\}"),
        ("a: strng -> c", "'a'.*'strng'; did you mean str"),
        ("a: list[Dat] -> c", "'a'.*'Dat'; did you mean date"),
        ("a: number -> c", "did you mean float"),
        ("a: datetme.date -> c", "did you mean"),
        ("a: datetime.tzinfo -> c", "'datetime.tzinfo'"),
        ("a: int[str] -> c", "'a': int takes no brackets"),
        ("a: Literal[] -> c", "'a': not a type"),
        ("a: Literal[()] -> c", "need brackets"),
        ("a: Literal -> c", "need brackets"),
        ("a: Optional | None -> c", "need brackets"),
        ("a: Literal[1.5] -> c", "Literal takes"),
        ("a: Literal[int] -> c", "Literal takes"),
        ("a: Literal[...] -> c", "Literal takes"),
        ("a: Literal[-True] -> c", "Literal takes"),
        ("a: Literal['x'.upper] -> c", "only a name may stand"),
        ("a: Literal[f'x'] -> c", "Literal takes"),
        (r"a: Literal['\ud800'] -> c", "surrogate"),
        (f"a: Literal[0x{'f' * 5000}] -> c", "too long"),
        (f"a: Literal[{'9' * 5000}] -> c", "'a'"),
        ("a: dict[str] -> c", "'a': dict takes 2 in brackets, not 1"),
        ("a: list[int, str] -> c", "list takes 1"),
        ("a: list[()] -> c", "list takes 1"),
        ("a: list[...] -> c", "is a value"),
        ("a: Optional[int, str] -> c", "Optional takes one"),
        ("a: Union[()] -> c", "Union one or more"),
        ("a: set[list[int]] -> c", "'a': a list.* is not hashable"),
        ("a: dict[dict, int] -> c", "not hashable"),
        ("a: (int, str) -> c", "bare list of types"),
        ("a: 'int' -> c", "is a value, not a type"),
        ("a: 3 -> c", "is a value"),
        ("a: int & str -> c", "only names"),
        ("a: lambda -> c", "not a type"),
        ("a: int = 5 -> c", "not a type"),
        ("a: list[int -> c", "never closed"),
        ("a: list[int)] -> c", "closes nothing"),
        ("a: int] -> c", "closes nothing"),
        ("a: Literal['x] -> c", "not closed"),
        ("a: Literal['''x'''] -> c", "not closed"),
        ("a: int # why\n -> c", "comments"),
        ("a\0 -> c", "position 1"),
        ("a\ud800 -> c", "position 1"),
        ("a: Color.RED -> c", "not a type"),
        ("a: Number -> c", "not a type"),
    ],
)
def test_bad_text_is_refused_saying_where_and_why(text: str, says: str) -> None:
    """Each mistake raises SignatureError, which names the field (where one is known) and the reason."""
    with pytest.raises(SignatureError, match=f"(?s){says}"):
        Signature.parse(text, types={"Color": Color, "Number": 3})


@pytest.mark.parametrize("name", sorted(REPL_NAMES))
def test_names_of_repl_callables_are_refused(name: str) -> None:
    """No field may hide a callable of the REPL, on either side."""
    for text in (f"{name} -> a", f"a -> {name}"):
        with pytest.raises(SignatureError, match=f"'{name}' would hide"):
            Signature.parse(text)


@pytest.mark.parametrize("bad", [None, 3, b"a -> b", ["a -> b"]])
def test_parse_takes_text_only(bad: Any) -> None:
    """Another kind of object is a SignatureError, not an AttributeError."""
    with pytest.raises(SignatureError, match="is not a signature's text"):
        Signature.parse(bad)


def test_types_must_be_a_mapping() -> None:
    """A list of classes, the natural slip, is answered with the form to write."""
    with pytest.raises(SignatureError, match=r'types=\{"Name": Class\}'):
        Signature.parse("a -> b", types=t.cast(Any, [Invoice]))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "a: " + "list[" * 20_000,
        "a: " + "list[" * 10_000 + "]" * 10_000 + " -> b",
        "a: " + "(" * 100 + "int" + ")" * 100 + " -> b",
        "a: " + "|".join(["int"] * 16_000) + " -> b",
        "a: " + "|".join(["int"] * 2_700) + "| x -> b",
        "a: " + "not " * 2_000 + "int -> b",
        "a: " + "-" * 8_000 + "1 -> b",
        "a: Literal[" + "-" * 8_000 + "1] -> b",
        "a: x" + ".x" * 4_000 + " -> b",
        "'" * 60_001,
        "'a'" * 20_000,
        "a," * 30_000 + "->",
        "->" * 30_000,
        ":" * 60_000 + "->",
        "a: " + "b" * 8_000 + " -> c",
    ],
    ids=range(16),
)
def test_adversarial_text_is_refused_quickly(text: str) -> None:
    """Length, nesting and repetition end in SignatureError with a short message, never in a spent stack or memory."""
    limit = sys.getrecursionlimit()
    for raised in (limit, 200_000):  # also where the caller has lifted Python's own guard
        sys.setrecursionlimit(raised)
        try:
            with pytest.raises(SignatureError) as caught:
                Signature.parse(text)
        finally:
            sys.setrecursionlimit(limit)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "a: __import__('os').system('touch {}') -> b",
        "a: list[__import__('os').system('touch {}')] -> b",
        "a: Literal[open('{}', 'w')] -> b",
        "a: [open('{}', 'w') for _ in 'x'] -> b",
        "a: (lambda: open('{}', 'w'))() -> b",
        "a: int) or open('{}', 'w') or (int -> b",
        "a: Literal[f\"{{open('{}', 'w')}}\"] -> b",
    ],
)
def test_no_code_is_evaluated(text: str, tmp_path: Any) -> None:
    """Calls, comprehensions, lambdas and f-strings are refused unrun."""
    target = tmp_path / "ran"
    with pytest.raises(SignatureError):
        Signature.parse(text.format(target))
    assert not target.exists()


_tricky = st.text(max_size=12) | st.text("->,:'\"[](){}\\#\n |\0", max_size=12)
_literals = st.lists(
    _tricky | st.integers() | st.booleans() | st.none() | st.binary(max_size=6), min_size=1, max_size=5
)
_scalars: list[Any] = [str, int, float, bool, complex, bytes, Any, type(None), Decimal, UUID, Invoice, Color, Point]
_scalars += [dt.date, dt.datetime, dt.time, dt.timedelta, Literal[Color.RED]]
_scalars += [list, dict, set, frozenset, tuple, tuple[()], Sequence, Mapping]
_leaves = st.sampled_from(_scalars) | _literals.map(lambda values: t.cast(Any, Literal)[tuple(values)])
_keys = st.sampled_from([str, int, Color, tuple[int, ...]])


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        inner.map(lambda a: list[a]),
        inner.map(lambda a: Sequence[a]),
        inner.map(lambda a: tuple[a, ...]),
        inner.map(lambda a: Optional[a]),
        _keys.map(lambda k: set[k]),
        _keys.map(lambda k: frozenset[k]),
        st.tuples(_keys, inner).map(lambda kv: dict[kv[0], kv[1]]),
        st.tuples(_keys, inner).map(lambda kv: Mapping[kv[0], kv[1]]),
        st.lists(inner, min_size=1, max_size=4).map(lambda many: tuple[tuple(many)]),  # pyright: ignore
        st.lists(inner, min_size=1, max_size=4).map(lambda many: Union[tuple(many)]),  # pyright: ignore
    )


_types = st.recursive(_leaves, _wider, max_leaves=8)


def _is_name(text: str) -> bool:
    try:
        return Signature.parse(f"-> {text}").outputs[0].name == text
    except SignatureError:
        return False


_names = st.sampled_from(["a", "b2", "context", "list", "type", "id", "datetime", "größe", "_x"]) | st.text(
    "abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8
).filter(_is_name)


@st.composite
def _signatures(draw: st.DrawFn) -> Signature:
    found = draw(st.lists(_names, min_size=1, max_size=6, unique=True))
    fields = tuple(Field(name, draw(_types)) for name in found)
    cut = draw(st.integers(0, len(fields) - 1))
    return Signature(fields[:cut], fields[cut:])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(_signatures())
def test_text_round_trips(signature: Signature) -> None:
    """Reading what a signature writes gives the same signature: names, order, and types to the last quote."""
    again = Signature.parse(str(signature), types=GIVEN)
    assert again == signature
    assert str(again) == str(Signature.parse(str(again), types=GIVEN))


_pieces = [*"->,:[]()'|.-#={}*@1 \n\"\\", "->", "...", ":=", "b''", "f'{a}'", "1e999", "a", "b", "int", "list", "dict"]
_pieces += ["Literal", "Optional", "Union", "tuple", "None", "Invoice", "Color", "RED", "typing", "datetime"]
_pieces += ["not ", "lambda", " if ", " else ", "await ", "yield "]
_fragments = st.lists(st.sampled_from(_pieces), max_size=30).map("".join)


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")  # of the text's own escapes
@settings(max_examples=800)
@given(st.text() | _fragments | _fragments.map(lambda text: f"a: {text} -> b"))
@example("a: Literal['" + "\\" * 3)
def test_any_text_gives_a_signature_or_a_signature_error(text: str) -> None:
    """No text whatever raises anything else, and what is accepted can be written and read again."""
    try:
        signature = Signature.parse(text, types=GIVEN)
    except SignatureError:
        return
    assert Signature.parse(str(signature), types=GIVEN) == signature


@pytest.mark.parametrize(
    ("tp", "text"),
    [
        (list[dict[str, int]], "list[dict[str, int]]"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (dt.datetime, "datetime"),
        (Invoice, "Invoice"),
        (str | None, "str | None"),
        (Optional[str], "str | None"),
        (t.List[int], "list[int]"),
        (t.Dict, "dict"),
        (Annotated[int, Ge(0)], "int"),
        (list[Annotated[str, "x"]] | None, "list[str] | None"),
        (tuple[int, ...], "tuple[int, ...]"),
        (tuple[()], "tuple[()]"),
        (Literal[Color.RED], "Literal[Color.RED]"),
        (t.Callable[[int], str], "Callable[[int], str]"),
        (t.NewType("Money", int), "Money"),
        (None, "None"),
        (Any, "Any"),
    ],
)
def test_types_are_shown_as_they_are_written(tp: Any, text: str) -> None:
    """type_text shows bare, short names; constraints are left to be shown in words."""
    assert type_text(tp) == text


class Review(BaseModel):
    """Judge the text.

    Be fair.
    """

    text: str
    score: Annotated[int, Ge(0)] = OutputField(le=10, desc="0 is worst")
    label: Literal["good", "bad"] = OutputField(description="the verdict")


def test_a_pydantic_class_with_marked_outputs_is_a_signature() -> None:
    """Unmarked fields are inputs; docstring, descriptions, order, name and constraints are kept."""
    signature = Signature.of(Review)
    assert signature.name == "Review" and signature.instructions == "Judge the text.\n\nBe fair."
    assert signature.inputs == (Field("text", str),)
    score, label = signature.outputs
    assert (score.name, score.desc, set(t.get_args(score.type))) == ("score", "0 is worst", {int, Ge(0), Le(10)})
    assert label == Field("label", Literal["good", "bad"], "the verdict")
    with pytest.raises(ValueError, match="less than or equal to 10"):
        TypeAdapter(score.type).validate_python(11)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        TypeAdapter(score.type).validate_python(-1)
    assert str(signature) == "text: str -> score: int, label: Literal['good', 'bad']"
    assert Signature.of(Review, instructions="Other.").instructions == "Other."


def test_unmarked_fields_are_outputs_where_only_inputs_are_marked() -> None:
    """The rule holds the other way round, also for marks inside Annotated and for defaults."""

    class Task(BaseModel):
        a: Annotated[str, InputField(desc="first")]
        b: list[int] = InputField(default_factory=list, max_length=3, json_schema_extra={"unit": "m"})
        c: str

    signature = Signature.of(Task)
    assert signature.inputs == (Field("a", str, "first"), Field("b", Annotated[list[int], MaxLen(3)]))
    assert names(signature.outputs) == ["c"] and signature.instructions == ""
    assert Task(a="x", c="y").b == []
    assert Task.model_fields["b"].json_schema_extra == {"unit": "m", "dszig": "input"}


def test_a_base_class_docstring_counts_but_pydantics_does_not() -> None:
    """Instructions come from the nearest docstring the user wrote."""

    class Child(Review):
        extra: str = InputField("none")
        text: str = InputField()

    assert Signature.of(Child).instructions.startswith("Judge")
    assert names(Signature.of(Child).inputs) == ["text", "extra"]


def test_dspy_marks_work_on_pydantic_classes() -> None:
    """Fields marked the way DSPy marks them are understood; its placeholder descriptions are not descriptions."""

    class Task(BaseModel):
        a: str = PydanticField(json_schema_extra={"__dspy_field_type": "input", "desc": "${a}"})
        b: str = PydanticField(json_schema_extra={"__dspy_field_type": "output", "desc": "the b"}, description="old")

    assert Signature.of(Task) == Signature((Field("a"),), (Field("b", str, "the b"),), "", "Task")


def test_a_discriminated_union_stays_discriminated() -> None:
    """The discriminator is a constraint too, and survives."""

    class Cat(BaseModel):
        kind: Literal["cat"]

    class Dog(BaseModel):
        kind: Literal["dog"]

    class Task(BaseModel):
        pet: Cat | Dog = OutputField(discriminator="kind")

    Task.model_rebuild(_types_namespace={"Cat": Cat, "Dog": Dog})
    adapter: TypeAdapter[Any] = TypeAdapter(Signature.of(Task).outputs[0].type)
    assert isinstance(adapter.validate_python({"kind": "dog"}), Dog)
    with pytest.raises(ValueError, match=r"discriminator|tag"):
        adapter.validate_python({"kind": "cow"})


def test_unresolved_annotations_are_resolved_from_types_or_refused() -> None:
    """A class naming one not yet defined says so; ``types`` supplies it."""

    class Late(BaseModel):
        a: str = InputField()
        b: list[Nowhere] = OutputField()  # noqa: F821  # pyright: ignore

    with pytest.raises(SignatureError, match="Late has annotations naming classes not yet defined"):
        Signature.of(Late)
    assert Signature.of(Late, types={"Nowhere": Invoice}).outputs[0].type == list[Invoice]


def test_classes_that_cannot_be_signatures_say_how_to_mark() -> None:
    """Nothing marked, partly marked, no outputs, a reserved name, an instance: each has its own answer."""

    class Half(BaseModel):
        a: str = InputField()
        b: str = OutputField()
        c: str

    class OnlyIn(BaseModel):
        a: str = InputField()

    class Hides(BaseModel):
        print: str = OutputField()

    cases: list[tuple[Any, str]] = [
        (Invoice, r"Invoice marks none of its fields; write `answer: str = OutputField\(\)`"),
        (Half, "Half leaves 'c' unmarked"),
        (OnlyIn, "no outputs"),
        (Hides, "'print' would hide"),
        (Invoice(total=1), "pass the class, not an instance"),
    ]
    for source, says in cases:
        with pytest.raises(SignatureError, match=says):
            Signature.of(source)
    with pytest.raises(SignatureError, match="json_schema_extra"):
        OutputField(json_schema_extra=lambda schema: None)  # pyright: ignore


@pytest.mark.parametrize("bad", [None, 3, ["a -> b"], {"a": str}, Point, Point(1), object, len])
def test_anything_else_is_refused_naming_the_accepted_kinds(bad: Any) -> None:
    """of() lists what it takes."""
    with pytest.raises(SignatureError, match=r"is not a signature; pass text such as .* pydantic .*dspy\.Signature"):
        Signature.of(bad)


def test_a_signature_is_taken_as_it_is() -> None:
    """of() of a Signature is that signature, with new instructions if given."""
    signature = Signature.parse("a -> b")
    assert Signature.of(signature) is signature
    assert Signature.of(signature, instructions="x") == Signature(signature.inputs, signature.outputs, "x")


def test_objects_shaped_like_dspy_signatures_are_read() -> None:
    """Only input_fields, output_fields and instructions matter, not the class."""
    info = PydanticField(description="how many", ge=1)
    info.annotation = int
    shaped = make_dataclass("Shaped", ["input_fields", "output_fields", "instructions"])({}, {"n": info}, "Count.")
    assert Signature.of(shaped) == Signature((), (Field("n", Annotated[int, Ge(1)], "how many"),), "Count.")


def test_dspy_signature_classes_are_read() -> None:
    """Real DSPy signatures, from a class and from text, give the same fields; default instructions are dropped."""
    dspy = pytest.importorskip("dspy")
    text = dspy.Signature("context: list[str], question -> answer: Literal['a', 'b'], score: float")
    read = Signature.of(text)
    assert read == Signature.parse("context: list[str], question -> answer: Literal['a', 'b'], score: float")
    assert Signature.of(text.with_instructions("Think.")).instructions == "Think."
    # An optimizer or module that adds a field keeps the old default text, which then names the wrong fields.
    longer = text.prepend("reasoning", dspy.OutputField(desc="why"), str)
    assert Signature.of(longer).instructions == ""
    assert Signature.of(longer).outputs[0] == Field("reasoning", str, "why")

    class Grade(dspy.Signature):
        """Grade it."""

        essay: str = dspy.InputField(desc="the essay")
        picture: dspy.Image = dspy.InputField()  # pyright: ignore
        points: int = dspy.OutputField(ge=0, le=10)

    graded = Signature.of(Grade, types={"dspy": dspy})
    assert (graded.name, graded.instructions) == ("Grade", "Grade it.")
    assert graded.inputs == (Field("essay", str, "the essay"), Field("picture", dspy.Image))
    assert graded.outputs == (Field("points", Annotated[int, Ge(0), Le(10)]),)
    assert Signature.parse("a: dspy.Image -> b", types={"dspy": dspy}).inputs[0].type is dspy.Image


def test_importing_the_module_loads_nothing_heavy() -> None:
    """Signatures cost pydantic, and neither DSPy nor an event loop."""
    code = "import sys, dszig_py.signature; print({'dspy', 'asyncio', 'litellm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
