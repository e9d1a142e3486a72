"""The contract: what the model is told of the inputs, and what SUBMIT accepts."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from decimal import Decimal
from typing import Annotated, Any, ForwardRef, Literal, get_origin

import pytest
from annotated_types import Ge
from costs import calls_of, memory_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError
from pydantic import Field as Constraint

from dszig_py.contract import PREVIEW_CHARS, SHOW_CHARS, SubmissionRefused, compile_contract
from dszig_py.environments._worker.codec import Opaque
from dszig_py.errors import InputError, SignatureError
from dszig_py.previews import Brief, brief
from dszig_py.signature import Field, Signature
from dszig_py.validation import _adapter


class Person(BaseModel):
    name: str
    age: Annotated[int, Ge(0)]
    tags: list[str] = []


TYPES = [
    str,
    int,
    float,
    bool,
    bytes,
    None,
    Any,
    Literal["a", 1, True, None],
    list[int],
    list[Literal["a", "b"]],
    dict[str, int],
    set[int],
    int | None,
    int | str,
    str | int,
    dt.datetime,
    dt.timedelta,
    Decimal,
    tuple[int, str],
    tuple[int, ...],
    Person,
    list[Person],
    Annotated[int, Constraint(ge=3, le=5)],
    Annotated[str, Constraint(max_length=2, pattern="^a")],
    list[Annotated[float, Constraint(gt=0)]],
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 6).map(str)
    | st.floats()
    | st.text(max_size=3)
    | st.text(st.characters() | st.just("\ud800"), max_size=2)
    | st.sampled_from(["a", "b", "ab", "true", "2020-01-01", "2020-01-01T00:00:00Z", "P1D"])
    | st.just(5_000).map(lambda digits: 10**digits)  # mapped, as hypothesis cannot print it
    | st.binary(max_size=3)
    | st.datetimes()
    | st.decimals()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
        | st.fixed_dictionaries({"name": inner, "age": inner}, optional={"tags": inner})
        | st.sets(st.integers() | st.text(max_size=2), max_size=3)
    ),
    max_leaves=6,
)


def signature(inputs=(), outputs=(("answer", str),)):
    return Signature(tuple(Field(*f) for f in inputs), tuple(Field(*f) for f in outputs))


def contract(*outputs, **options):
    return compile_contract(signature((), outputs), {}, **options)


def shown(value, tp=Any, **options):
    return compile_contract(signature([("x", tp)]), {"x": value}, **options)


def refused(c, *args, **kwargs):
    with pytest.raises(SubmissionRefused) as caught:
        c.validate(args, kwargs)
    return str(caught.value)


def repr_or_type(value):
    try:
        return repr(value)
    except ValueError:  # more digits than Python writes
        return hex(value) if isinstance(value, int) else type(value).__name__


@settings(max_examples=600)
@given(st.sampled_from(TYPES), VALUES)
def test_a_submission_is_accepted_exactly_where_pydantic_accepts_it(tp, value):
    """For every type and value: the same verdict, the same result."""
    try:
        expected = TypeAdapter(tp).validate_python(value)
    except ValidationError:
        assert "x: " in refused(contract(("x", tp)), x=value)
    else:
        got = contract(("x", tp)).validate([], {"x": value})["x"]
        assert (type(got), repr_or_type(got)) == (type(expected), repr_or_type(expected))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_types_that_compare_equal_are_judged_each_in_its_own_way(order):
    """The cache of adapters confuses neither 1 with True nor one order of a union with another, whichever came first."""
    _adapter.cache_clear()
    cases = [(Literal[1], 1), (Literal[True], True), (bool | int, True), (int | bool, 1)]
    for tp, expected in [cases[i] for i in order]:
        got = contract(("x", tp)).validate([], {"x": expected if get_origin(tp) is Literal else "1"})["x"]
        assert (got, type(got)) == (expected, type(expected))


def test_a_submission_comes_by_name_by_position_or_both():
    """Outputs are in the signature's order, whatever the call's."""
    c = contract(("n", int), ("s", str))
    for args, kwargs in ([(), {"s": "a", "n": 1}], [(1, "a"), {}], [(1,), {"s": "a"}]):
        assert list(c.validate(args, kwargs).items()) == [("n", 1), ("s", "a")]


def test_one_refusal_names_every_bad_field_and_the_right_call():
    """Missing, surplus, mistyped and given twice are told at once, so that one more attempt can be enough."""
    c = contract(("n", int), ("s", str), ("l", list[int]), ("d", str))
    message = refused(c, "one", n=2, l=["x"], other=1)
    for told in (
        "n: given twice, by position and by name",
        "other: there is no such output",
        "s: missing",
        "l: 0: Input should be a valid integer, unable to parse string as an integer (got str 'x')",
        "d: missing",
        "Call SUBMIT(n: int, s: str, l: list[int], d: str).",
    ):
        assert told in message
    assert "n: Input" not in message


def test_one_bad_field_hides_no_other():
    """Every field is judged, also after the first has failed."""
    message = refused(contract(("l", int), ("m", int), ("n", int)), l="x", m=2, n="y")
    assert "l: Input" in message
    assert "n: Input" in message
    assert "m: " not in message.partition("Call")[0]


def test_too_many_values_by_position_are_counted():
    """The message says how many there should be."""
    assert "3 values for 1 outputs" in refused(contract(("x", int)), 1, 2, 3)
    assert "x: missing" in refused(contract(("x", int)))


def test_a_refusal_is_bounded_whatever_was_submitted():
    """Neither a huge key nor a huge value nor a thousand mistakes flood the prompt."""
    c = contract(("x", dict[str, int]))
    message = refused(c, x={"k" * 1_000_000: "v" * 1_000_000, **{str(i): "bad" for i in range(1_000)}})
    assert len(message) < 3_000
    assert "and 996 more" in message
    assert len(refused(contract(("x", str)), x=10**5_000)) < 500


def test_a_check_has_the_last_word_on_valid_outputs_only():
    """A message or an exception sends the model back; None lets it pass; it never sees a mistyped value."""
    seen = []

    def check(outputs):
        seen.append(outputs)
        if outputs["n"] == 1:
            return "one is too few"
        if outputs["n"] == 2:
            raise LookupError("not two either")
        return None

    c = contract(("n", int), check=check)
    assert refused(c, n="1") == "SUBMIT was refused: one is too few"
    assert refused(c, n=2) == "SUBMIT was refused: LookupError: not two either"
    assert c.validate([], {"n": 3}) == {"n": 3}
    assert "valid integer" in refused(c, n="many")
    assert seen == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_check_that_changes_its_outputs_changes_nothing():
    """It judges; what is delivered is what was submitted."""
    assert contract(("n", int), check=lambda outputs: outputs.clear()).validate([], {"n": 1}) == {"n": 1}


@pytest.mark.parametrize("tp", [Any, object, list, list[Any], dict[str, Any], Any | None])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": [1, (v,)]}, lambda v: {v: 1}])
def test_what_cannot_leave_the_repl_is_refused_for_every_type(tp, wrap):
    """Also for Any, also deep inside: a prediction never holds a stand-in."""
    message = refused(contract(("x", tp)), x=wrap(Opaque("function", "<function>")))
    assert "x: a function" in message or "Input should be" in message


COLLIDING = [number * (2**61 - 1) for number in range(3_000)]  # Python's hash of each is 0


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (set[int], COLLIDING),
        (set[int], [str(one) for one in COLLIDING]),
        (frozenset[tuple[int, str]], [[one, "x"] for one in COLLIDING]),
        (dict[int, str], {str(one): "x" for one in COLLIDING}),
        (list[set[Decimal]], [[str(one) for one in COLLIDING]]),
        (list[Literal[1] | Literal["a"]], ["x"] * 600_000),
    ],
    ids=["numbers", "text", "tuples", "keys", "inside", "unions"],
)
def test_what_would_take_minutes_or_all_memory_to_judge_is_refused(tp, value):
    """Sets of one hash take quadratic time, each member of a union that does not fit an error object."""
    contract = compile_contract(Signature((), (Field("answer", tp),)), {})
    with pytest.raises(SubmissionRefused, match=r"too many keys with the same hash|are too many for unions"):
        contract.validate([], {"answer": value})


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (set[int], list(range(200_000))),
        (set[int], [7] * 200_000),
        (dict[int, str], {str(one): "x" for one in range(50_000)}),
        (list[int | None], [None] * 200_000),
    ],
    ids=["numbers", "the same", "keys", "unions"],
)
def test_large_values_that_cost_what_they_seem_to_are_taken(tp, value):
    """The same sizes without a trap."""
    contract = compile_contract(Signature((), (Field("answer", tp),)), {})
    assert contract.validate([], {"answer": value})["answer"] == TypeAdapter(tp).validate_python(value)


def test_where_the_value_is_that_cannot_leave_is_told():
    """The path inside the submission, and why it cannot leave."""
    message = refused(contract(("x", Any)), x={"a": [0, {"b": Opaque("list", "it contains itself")}]})
    assert "x: a list at ['a'][1]['b'] cannot be submitted (it contains itself); submit data" in message


def test_a_validator_that_breaks_is_a_refusal_not_a_crash():
    """A KeyError of the caller's own validator reaches the model as text, and the caller as an InputError."""

    def broken(value):
        raise KeyError("lost")

    tp = Annotated[str, AfterValidator(broken)]
    assert "x: KeyError: 'lost'" in refused(contract(("x", tp)), x="a")
    with pytest.raises(InputError, match="input 'x' is declared str: KeyError: 'lost'"):
        shown("a", tp)


def test_a_type_that_cannot_be_judged_is_the_signatures_fault():
    """A name that leads nowhere is a SignatureError, at the input as at the output, before any model is asked."""
    with pytest.raises(SignatureError, match="cannot be validated"):
        shown([1], list[ForwardRef("Nowhere")])
    with pytest.raises(SignatureError, match="cannot be validated"):
        contract(("x", list[ForwardRef("Nowhere")]))


def test_inputs_that_do_not_fit_are_refused_by_name():
    """Missing and surplus together, a mistyped one with its declared type and what came."""
    s = signature([("a", int), ("b", list[int])])
    with pytest.raises(InputError, match=r"missing: a; not in the signature: c, d$"):
        compile_contract(s, {"b": [], "c": 1, "d": 2})
    with pytest.raises(InputError, match=r"input 'b' is declared list\[int\]: 1: Input should be .* \(got str 'x'\)"):
        compile_contract(s, {"a": 1, "b": [1, "x"]})
    with pytest.raises(InputError, match=r"show=\.\.\.\) names z; the inputs are a, b"):
        compile_contract(s, {"a": 1, "b": []}, show=["z"])


def test_inputs_take_their_declared_types():
    """Converted as pydantic does; a field that declares nothing takes what comes, and says what it is."""
    c = compile_contract(signature([("n", int), ("free", str)]), {"n": "7", "free": [1]})
    assert [v.value for v in c.variables] == [7, [1]]
    assert "free: list, 1 item," in c.text


SECRET = "Xq7vS3cret"
BIG = st.integers(2_000, 20_000)


def _wrapped(draw_text):
    """A big value of some kind with the secret in its middle."""
    text = draw_text
    middle = lambda filler, secret: [*filler, secret, *filler]  # noqa: E731
    return st.sampled_from(
        [
            text + SECRET + text,
            (text + SECRET + text).encode(),
            bytearray((text + SECRET + text).encode()),
            middle([text], text + SECRET + text),
            middle(range(500), SECRET),
            middle([text] * 50, SECRET),
            tuple(middle(["x"] * 200, SECRET)),
            {i: SECRET if i == 250 else text for i in range(500)},
            {f"{i:04}": [SECRET] if i == 250 else i for i in range(500)},
            {text + SECRET + text: 1},
            {f"{i:04}{SECRET if i == 250 else ''}" for i in range(500)},
            frozenset({(i, SECRET if i == 250 else "") for i in range(500)}),
            [[[[[[SECRET]]]]]],
            [[[text] * 30] * 30, SECRET],
            Person(name=text + SECRET + text, age=3, tags=[text] * 100),
            [Person(name="n", age=i, tags=[SECRET] if i == 200 else [text]) for i in range(400)],
            {"a": {"b": {"c": [text + SECRET + text] * 100}}},
        ]
    )


@settings(max_examples=150)
@given(st.text(st.characters(codec="utf-8", exclude_characters="Xq7vS3cret"), min_size=3, max_size=20), BIG, st.data())
def test_a_prompt_never_holds_more_of_an_input_than_the_preview(piece, times, data):
    """Whatever the value: its text in the prompt is bounded, and the middle of it is not there."""
    value = data.draw(_wrapped(piece * (times // len(piece) + 1)))
    text = shown(value).text
    assert SECRET not in text
    assert len(text) < 2 * PREVIEW_CHARS + 400


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=40))
def test_a_brief_repr_is_bounded_and_whole_or_cut(value):
    """Never longer than asked; where it says that it is whole, it is the value's own repr."""
    for limit in (20, 80, 800):
        assert len(brief(value, limit)) <= limit
    bounded = Brief(800)
    text = bounded.of(value)
    assert not bounded.whole or text == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        "wait ...",
        ["wait..."],
        {"a": (1,)},
        set(),
        {3, 1},
        frozenset([1]),
        b"\x00...",
        5,
        -0.0,
        None,
        (),
        [[]],
        dt.date.max,
    ],
)
def test_a_small_value_is_shown_whole_and_said_to_be(value):
    """Also one that holds dots of its own, which are no sign of a cut."""
    text = shown(value).text
    assert "shown whole" in text
    assert "only a preview" not in text
    assert f"     {value!r}\n" in text


@pytest.mark.parametrize(
    "value", ["x" * 801, list(range(200)), {"a": "x" * 900}, {"a": {"b": {"c": {"d": {"e": {1: 1}}}}}}]
)
def test_what_is_not_whole_is_said_to_be_a_preview(value):
    """By length, by count and by depth."""
    assert "only a preview is shown" in shown(value).text
    assert "shown whole" not in shown(value).text


def test_long_text_shows_how_it_starts_and_ends():
    """Head and tail, three to one."""
    v = shown("a" * 5_000 + "z" * 5_000).variables[0]
    assert v.preview == f"starts {'a' * 600!r}\n     ends {'z' * 200!r}"


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("a\nb\nc", "str, 5 characters, 3 lines"),
        ("a\nb\n", "str, 4 characters, 2 lines"),
        ("", "str, 0 characters"),
        ("é" * 12_345, "str, 12,345 characters, 1 line"),
        (b"abc", "bytes, 3 bytes"),
        ({"a": 1, "b": 2}, "dict, 2 keys"),
        (["ab", "cde"], "list, 2 items, 5 characters in all"),
        ([1, 2, 3], "list, 3 items"),
        ({1}, "set, 1 item"),
    ],
)
def test_sizes_are_told_in_the_values_own_unit(value, size):
    """Characters and lines, bytes, keys, items: what a plan for splitting needs."""
    assert (
        f"  x: {size}, shown whole" in shown(value, str).text
        or f"  x: {size}, only a preview" in shown(value, str).text
    )


@pytest.mark.parametrize("value", ["line of text\n" * 1_500, [f"item {i}" for i in range(900)]])
def test_a_shown_input_stands_whole_up_to_its_bound(value):
    """Strategy(show=...) means whole, line ends and all."""
    assert "shown whole" in shown(value, show=["x"]).text
    assert repr(value) in shown(value, show=["x"]).text
    assert "only a preview" in shown(value).text


def test_a_shown_input_beyond_its_bound_is_a_preview_of_that_size():
    """20,000 characters, whatever was asked."""
    text = shown("x" * (SHOW_CHARS + 1), show=["x"]).text
    assert "only a preview" in text
    assert SHOW_CHARS <= len(text) < SHOW_CHARS + 400


def test_compiling_a_huge_text_copies_nothing():
    """200 MB: the variable is the very object, and what is made of it takes less than a hundredth of that."""
    text = "x" * 200_000_000
    assert memory_of(lambda: shown(text, str)) < 2_000_000
    c = shown(text, str)
    assert len(c.text) < 2_000
    assert c.variables[0].value is text


def test_previews_of_wide_and_deep_values_take_few_steps():
    """Pieces are made until there are enough: shared structure that would unfold to 10 ** 12 parts is not unfolded."""
    value: Any = "x" * 1_000
    for _ in range(6):
        value = [value] * 100
    assert calls_of(lambda: shown(value, show=["x"])) < 500_000
    wide = {"records": [Person(name="n", age=1)] * 1_000_000}
    assert calls_of(lambda: shown(wide, show=["x"])) < 500_000


def test_a_preview_of_a_set_does_not_depend_on_the_processs_hashes():
    """Sets have no order of their own; prompts do, or caches and replays would miss."""
    words = {f"word{i}" for i in range(100)}
    assert shown(words).variables[0].preview.startswith("{'word0', 'word1', 'word10', 'word11', ")


def test_a_set_with_a_decimal_that_is_no_number_is_previewed():
    """It has no order, and says so by an error of its own kind."""
    assert brief({Decimal("NaN"), Decimal(1)}, 100).count("Decimal") == 2


def test_constraints_and_models_are_told_where_the_types_name_does_not():
    """A plain type needs no schema; constraints and fields do, however deep they are."""
    told = {
        "x: int": contract(("x", int)).submit_text,
        "list[int]": contract(("x", list[int])).submit_text,
        '"minimum": 3': contract(("x", Annotated[int, Constraint(ge=3)])).submit_text,
        '"exclusiveMinimum": 0': contract(("x", list[Annotated[float, Constraint(gt=0)]])).submit_text,
        '"tags"': contract(("x", dict[str, list[Person]])).submit_text,
        '"age"': contract(("x", Person | None)).submit_text,
    }
    for part, text in told.items():
        assert part in text
        assert ("JSON schema" in text) == ('"' in part)


def test_large_and_self_validating_submissions_are_judged_off_the_loop():
    """Small plain ones are not worth a thread."""
    assert not contract(("x", list[int])).off_loop({"x": [1, 2]})
    assert contract(("x", list[int])).off_loop({"x": [[0] * 50_000, [0] * 60_000]})
    assert contract(("x", str)).off_loop({}, ["x" * 100_001])
    assert contract(("x", list[Person])).off_loop({"x": []})
    assert contract(("x", str), check=lambda outputs: None).off_loop({"x": ""})


def test_dataclasses_and_odd_objects_are_previewed_by_their_fields():
    """A record shows its fields; a repr that raises shows the type."""

    @dataclasses.dataclass
    class Row:
        key: str
        values: list[int]

    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert brief(Row("k", [1]), 80) == "Row(key='k', values=[1])"
    assert brief([Odd(), Odd], 80).startswith("[<Odd>, <class ")
    assert brief(10**5_000, 80) == "<int of 16,610 bits>"


def test_the_contract_can_be_read_by_any_terminal_and_sent_as_utf8():
    """Escapes and lone surrogates in values and descriptions do not get through."""
    c = compile_contract(
        Signature((Field("x", str, "about \x1b[31m\ud800"),), (Field("y", str),)), {"x": "\x1b[31m\ud800\x00"}
    )
    assert c.text.encode()
    assert "\x1b" not in c.text
    assert "\x00" not in c.text
