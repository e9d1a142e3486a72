"""Values across the boundary: what goes in comes out, whatever else is sent is a ``ValueError``."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import uuid
from collections import Counter, OrderedDict, defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel

from dszig_py.environments._worker import codec
from dszig_py.environments._worker.codec import MAX_DEPTH, Opaque, Record, SubCallError

ODD_TEXT = st.text(st.characters() | st.sampled_from("\x00\ud800\udbff\udc00\udfff~é\U0001f600"), max_size=8)
ZONES = st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)))
KEYS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10_000, 20_000).map(lambda bits: -(1 << bits)),
    st.floats(allow_nan=False),
    ODD_TEXT,
    st.just("~"),
    st.binary(max_size=8),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.dates(),
    st.datetimes() | st.datetimes(timezones=ZONES) | st.datetimes().map(lambda at: at.replace(fold=1)),
    st.times() | st.times().map(lambda at: at.replace(fold=1)),
    st.timedeltas(),
)
KEYS |= st.tuples(KEYS, KEYS) | st.frozensets(KEYS, max_size=2)
# What is not equal to itself, or cannot be hashed, is no key.
LEAVES = KEYS | st.just(math.nan) | st.complex_numbers() | st.decimals() | st.just(decimal.Decimal("sNaN123"))
VALUES = st.recursive(
    LEAVES | st.sets(KEYS, max_size=3) | st.frozensets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(ODD_TEXT | st.just("~"), inner, max_size=3)
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXT | st.just("~"), inner, max_size=3),
    max_leaves=12,
)
# Data that begins as a tagged value does, so that every kind's reading meets wrong contents.
TAGGED = st.recursive(
    JSON,
    lambda inner: st.builds(
        lambda kind, body: {"~": [kind, *body]},
        st.sampled_from(sorted(codec._UNPACKERS)),
        st.lists(inner | st.lists(st.lists(inner, min_size=2, max_size=2), max_size=2), max_size=4),
    ),
    max_leaves=8,
)


def cross(value, **how):
    return codec.decode(codec.loads(codec.dumps(codec.encode(value))), **how)


def same(a, b):
    """Equal, of the same type all the way down, a NaN being itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (set, frozenset)):
        return a == b and Counter(map(type, a)) == Counter(map(type, b))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b) if a == a else b != b
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, decimal.Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, (dt.datetime, dt.time)):
        return (a.isoformat(), a.fold) == (b.isoformat(), b.fold)
    return a == b


@given(VALUES)
def test_a_value_comes_back_equal_and_of_its_own_type(value):
    """JSON types, bytes, sets, tuples, NaN, huge ints, decimals, dates, odd keys and odd text, nested in any way."""
    assert same(cross(value), value)


@pytest.mark.parametrize("microseconds", [62, -62, 999_999])
def test_an_offset_under_a_second_is_kept(microseconds):
    """Python's own reading of the text drops it."""
    zone = dt.timezone(dt.timedelta(microseconds=microseconds))
    for moment in (dt.datetime(2024, 1, 2, 3, tzinfo=zone, fold=1), dt.time(3, 4, tzinfo=zone)):
        assert same(cross(moment), moment)


@given(VALUES)
def test_encoding_strictly_and_leniently_agree_on_what_can_cross(value):
    """encode_strictly refuses nothing that encode would not make opaque."""
    assert codec.dumps(codec.encode_strictly(value)) == codec.dumps(codec.encode(value))


@given(ODD_TEXT)
def test_text_with_split_surrogate_pairs_stays_two_halves(text):
    """JSON joins two halves into one character; the codec does not, neither in values nor in keys."""
    assert cross("\ud83d" + text + "\ude00") == "\ud83d" + text + "\ude00"
    assert cross({"\ud83d\ude00": 1}) == {"\ud83d\ude00": 1}
    assert len(cross("\ud83d\ude00")) == 2


@settings(max_examples=500)
@given(TAGGED | JSON)
def test_decoding_arbitrary_data_gives_a_value_or_a_value_error(data):
    """A hostile worker can send any JSON: the host needs to catch one type only."""
    for records in (Record, codec.plain_record):
        try:
            codec.decode(data, records=records)
        except ValueError:
            continue


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        [1],
        ["no such kind", 1],
        ["bytes", "not base64!"],
        ["bytes"],
        ["int", "zz"],
        ["int", 5],
        ["timedelta", 10**20, 0, 0],
        ["timedelta", "x", 0, 0],
        ["decimal", "nonsense"],
        ["decimal", None],
        ["uuid", 5],
        ["datetime", "2020-01-01", 7],
        ["datetime", "yesterday", 0],
        ["dict", [[1]]],
        ["record", "R", 5],
        ["tuple", 5],
        ["str", 5],
    ],
)
def test_a_malformed_tagged_value_is_a_value_error(body):
    """Every kind's reading fails with the one type, not with TypeError, KeyError or OverflowError."""
    with pytest.raises(ValueError, match=r"."):
        codec.decode({"~": body})


@settings(max_examples=200)
@given(st.binary(max_size=40) | JSON.map(repr).map(lambda text: text.encode("utf-8", "replace")))
def test_loading_arbitrary_bytes_gives_data_or_a_value_error(data):
    """What is not JSON is refused with the same type."""
    try:
        codec.loads(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    "text", [b"NaN", b"[Infinity]", b"-Infinity", b"[" * 100_000, b"1" * 5_000, b"\xff", b"{'a': 1}"]
)
def test_loading_refuses_what_json_does_not_know(text):
    """Bare NaN, bottomless nesting and numbers beyond Python's digit limit are ValueErrors."""
    with pytest.raises(ValueError, match=r"."):
        codec.loads(text)


class Inner(BaseModel):
    n: int


class Outer(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    inner: Inner


@dataclasses.dataclass
class Point:
    x: int
    tags: set[str]


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Named(str, enum.Enum):
    A = "a"


def test_models_and_dataclasses_cross_as_records_with_attributes_and_items():
    """Fields are reached either way, nested ones too, extra ones too; the host reads plain dicts."""
    model = Outer(name="o", inner=Inner(n=1), more=(1, 2))
    record = cross(model)
    assert (record.name, record["name"], record.inner.n, record["inner"]["n"], record.more) == ("o", "o", 1, 1, (1, 2))
    assert repr(record) == "Outer(name='o', inner=Inner(n=1), more=(1, 2))"
    assert cross(model, records=codec.plain_record) == {"name": "o", "inner": {"n": 1}, "more": (1, 2)}
    point = cross(Point(1, {"a"}))
    assert (point.x, point["tags"], list(point), "x" in point) == (1, {"a"}, ["x", "tags"], True)
    with pytest.raises(AttributeError, match=r"Point has no field 'y'; it has \['x', 'tags'\]"):
        _ = point.y


def test_a_record_changed_in_the_repl_crosses_again_as_changed():
    """A record is by value, and its fields can be set either way."""
    record = cross(Point(1, {"a"}))
    record.x, record["tags"] = 2, []
    assert cross(record) == record
    assert cross(record, records=codec.plain_record) == {"x": 2, "tags": []}


def test_enums_cross_as_their_values():
    """Also those that are str or int as well."""
    assert [cross(e) for e in (Colour.RED, Level.HIGH, Named.A)] == ["red", 3, "a"]
    assert [type(cross(e)) for e in (Level.HIGH, Named.A)] == [int, str]


def test_a_root_model_crosses_as_what_it_holds():
    """So that the host can validate it again."""
    model = RootModel[list[int]]([1, 2])
    assert cross(model) == [1, 2]
    assert type(model).model_validate(cross(model, records=codec.plain_record)) == model


def test_subclasses_of_builtins_cross_as_the_builtin():
    """What they hold is kept; their own methods, which may lie, are passed over."""

    class Text(str):
        def __str__(self):
            raise RuntimeError

        def isascii(self):
            raise RuntimeError

    class Number(int):
        def __int__(self):
            raise RuntimeError

        __repr__ = __index__ = __int__

    class Real(float):
        def __repr__(self):
            return "not a number"

    class Many(list):
        pass

    values = [Text("é~"), Number(5), Real(0.5), Many([1]), OrderedDict(a=1), defaultdict(list, {1: 2}), Counter("aa")]
    values += [bytearray(b"x"), memoryview(b"x"), range(3), {"a": 1}.keys(), {"a": 1}.values(), {"a": 1}.items()]
    expected = ["é~", 5, 0.5, [1], {"a": 1}, {1: 2}, {"a": 2}, b"x", b"x", [0, 1, 2], {"a"}, [1], [("a", 1)]]
    assert same(cross(values), expected)


def test_sets_and_keys_that_cannot_be_hashed_there_arrive_as_lists():
    """Records are mutable; a set of them is not lost and does not fail the frame."""

    @dataclasses.dataclass(frozen=True)
    class Key:
        n: int

    assert cross({Key(1)}, records=codec.plain_record) == [{"n": 1}]
    assert cross(frozenset([Key(1)]))[0].n == 1
    assert cross({Key(1): "one"}, records=codec.plain_record) == [({"n": 1}, "one")]


def test_an_exception_crosses_as_a_value_that_is_an_exception():
    """A failed item of a batch can be stored, sent back and compared."""
    failed = cross([ValueError("no luck"), SubCallError("again")])
    assert failed == [SubCallError("no luck"), SubCallError("again")]
    assert all(isinstance(item, Exception) for item in failed)
    assert len({*failed, SubCallError("again")}) == 2


class BadItems(dict):
    def items(self):
        raise KeyError("no")


class BadText(Exception):
    def __str__(self):
        raise OSError


@dataclasses.dataclass
class BadProperty:
    x: int = 1

    def __getattribute__(self, name):
        if name == "x":
            raise ZeroDivisionError
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    "value",
    [object(), len, int, SimpleNamespace(a=1), iter([]), (i for i in ()), BadItems(a=1), BadText(), BadProperty()],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_cross_becomes_opaque_and_spares_its_neighbours(value):
    """Whatever its own code raises; strictly, it is a TypeError that names the type."""
    before, stranger, after = cross([1, value, {"a": (2,)}])
    assert (before, after) == (1, {"a": (2,)})
    assert isinstance(stranger, Opaque)
    assert stranger.type_name == type(value).__name__
    assert "0x" not in stranger.text  # an address would make two equal runs differ
    with pytest.raises(TypeError, match=type(value).__name__):
        codec.encode_strictly([1, value])


def test_a_value_that_lies_about_its_class_is_opaque():
    """isinstance asks __class__, which may raise; the frame does not fail with it."""

    class Liar:
        @property
        def __class__(self):
            raise RuntimeError

    liar = Liar()
    assert cross([1, liar])[1].text == "reading it raised RuntimeError"


def test_opaque_values_cross_again_and_compare():
    """An opaque value submitted, recorded and loaded is still equal to itself."""
    once = cross([object()])
    assert cross(once) == once
    assert once != cross([len])
    assert len({*once, *cross(once)}) == 1


def nested(levels, wrap):
    value = 0
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS = {
    "list": lambda v: [v],
    "dict": lambda v: {"a": v},
    "tuple": lambda v: (v,),
    "odd dict": lambda v: {1: v},
    "record": lambda v: Record("R", {"a": v}),
    "dataclass": lambda v: Point(v, None),
}


@pytest.mark.parametrize("wrap", list(WRAPS.values()), ids=WRAPS)
def test_nesting_is_bounded_and_the_bound_can_be_reached(wrap):
    """At the bound a value of any kind crosses whole; far beyond it the rest is opaque, never a RecursionError."""
    deep = nested(MAX_DEPTH, wrap)
    assert "deeper" not in repr(codec.encode(deep))
    assert repr(cross(deep)) == repr(cross(codec.decode(codec.encode(deep))))
    beyond = codec.dumps(codec.encode(nested(100_000, wrap)))
    assert b"nested deeper than 100 levels" in beyond
    codec.decode(codec.loads(beyond))
    with pytest.raises(TypeError, match="nested deeper"):
        codec.encode_strictly(nested(100_000, wrap))


def test_a_value_that_contains_itself_is_cut_where_it_does():
    """Also where it branches: without a memory of the way down, 2 ** 100 parts would be visited."""
    node = {"name": "root", "seen": [1]}
    node["left"] = node["right"] = [node, (node,)]
    crossed = cross(node)
    assert (crossed["name"], crossed["seen"]) == ("root", [1])
    assert crossed["left"][0] == crossed["right"][1][0] == Opaque("dict", "it contains itself")
    with pytest.raises(TypeError, match="contains itself"):
        codec.encode_strictly(node)


def test_a_value_met_twice_side_by_side_is_no_cycle():
    """Sharing is not containing: both places get the whole value."""
    shared = [1, (2,)]
    assert cross({"a": shared, "b": [shared, shared]}) == {"a": [1, (2,)], "b": [[1, (2,)]] * 2}


def test_decoding_too_deep_data_is_a_value_error():
    """What the encoder never makes but a worker may send."""
    data = nested(50_000, lambda v: {"~": ["tuple", [v]]})
    with pytest.raises(ValueError, match="malformed"):
        codec.decode(data)


def test_many_uuids_and_dates_keep_their_types_in_a_large_list():
    """The fast ways for plain items do not catch what only looks plain."""
    value = [uuid.UUID(int=i) for i in range(50)] + [dt.date(2020, 1, 1), True, 1, 1.0, None, ""]
    assert same(cross(value), value)
