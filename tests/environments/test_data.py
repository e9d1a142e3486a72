"""Arrays and tables: as inputs where their package is allowed, as data on the way out, in short in the prompt."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types

import pytest

from dszig_py import RLM, arrays
from dszig_py.contract import compile_contract
from dszig_py.environments import inputs
from dszig_py.environments._worker import codec
from dszig_py.environments.base import CellLimits
from dszig_py.environments.inprocess import InProcessEnvironment
from dszig_py.environments.process import ProcessEnvironment
from dszig_py.errors import EnvironmentFailure, InputError
from dszig_py.signature import Field, Signature
from dszig_py.testing import RecordingHost, ScriptedLM

np = pytest.importorskip("numpy", reason="numpy is not installed: pip install 'dszig-py[data]'")
pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'dszig-py[data]'")

ALLOWED = ProcessEnvironment(packages=["numpy", "pandas"])
TABLE = {"n": [1, 2, 3], "text": ["a", "b", None], "when": ["2024-01-01", "2024-06-30", "2025-01-01"]}


@contextlib.asynccontextmanager
async def a_session(environment, values, outputs=None, functions=None):
    fields = tuple(Field(name, object) for name in values)
    wanted = tuple(Field(name, tp) for name, tp in (outputs or {"answer": object}).items())
    contract = compile_contract(Signature(fields, wanted), values)
    session = await environment.open(contract, RecordingHost(contract, functions), CellLimits())
    try:
        yield session
    finally:
        await session.close()


def run(*cells, values, environment=ALLOWED, **options):
    async def go():
        async with a_session(environment, values, **options) as session:
            return [await session.execute(code) for code in cells]

    return asyncio.run(go())


def table():
    made = pd.DataFrame(TABLE)
    made["when"] = pd.to_datetime(made["when"])
    return made


def test_values_of_allowed_packages_arrive_as_such():
    """Arrays of any kind, tables with dates and missing values, whole and usable; the worker is as hardened as ever."""
    values = {
        "numbers": np.arange(1_000_000, dtype=np.float64).reshape(1000, 1000),
        "names": np.array(["a", "bc"]),
        "table": table(),
        "series": pd.Series([1.5, None], name="s"),
        "one": np.float32(0.5),
        "plain": [1, {"a": 2}],
    }
    code = (
        "import numpy as np, pandas as pd\n"
        "[type(v).__name__ for v in (numbers, names, table, series, one, plain)], numbers.sum(), "
        "(numbers @ numbers).shape, table.n.sum(), table.when.dt.year.tolist(), int(table.text.isna().sum()), series.iloc[0], plain"
    )
    first, second, third = run(code, "open('/etc/passwd')", "table.groupby('text').n.sum().to_dict()", values=values)
    assert first.error == ""
    kinds = "['ndarray', 'ndarray', 'DataFrame', 'Series', 'float32', 'list']"
    assert first.value.startswith(f"({kinds}, ")
    assert "(1000, 1000), " in first.value
    assert first.value.endswith("[2024, 2024, 2025], 1, np.float64(1.5), [1, {'a': 2}])")
    assert "PermissionError" in second.error
    assert third.value == "{'a': 1, 'b': 2}"


def test_an_input_changed_by_the_code_or_lost_with_a_worker_is_as_it_was_given():
    """By value, also into a second worker."""
    given = np.zeros(3)
    values = run("given[:] = 7", "import os; os._exit(1)", "given.tolist()", values={"given": given})
    assert values[2].value == "[0.0, 0.0, 0.0]"
    assert given.tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [np.zeros(3), pd.Series([1]), pd.DataFrame(TABLE)], ids=["array", "series", "table"])
def test_a_package_that_is_not_allowed_is_named(value):
    """Before any model call, with what to write."""
    top = type(value).__module__.partition(".")[0]
    lm = ScriptedLM([])
    with pytest.raises(InputError, match=rf'input .data.: .*; or allow its package: .*packages=\["{top}"\]'):
        RLM("data -> answer", lm=lm, environment="process")(data=value)
    with pytest.raises(InputError, match="cannot be passed by value") as raised:
        RLM("data -> answer", lm=lm, environment="process")(data=object())
    assert "packages=" not in str(raised.value)


def test_what_cannot_be_pickled_is_an_input_error():
    """It names the input."""
    bad = np.array([lambda: 0], dtype=object)
    with pytest.raises(InputError, match="input 'bad': a ndarray that cannot be pickled"):
        inputs.pack({"bad": bad}, frozenset({"numpy"}))


def test_values_of_other_modules_are_never_pickled():
    """Only types of the packages that were asked for; pydantic, which every worker has, is none of them."""
    assert ProcessEnvironment().value_modules() == frozenset()
    assert {"numpy", "pandas"} <= ALLOWED.value_modules()
    assert "pydantic" not in ALLOWED.value_modules()


def test_a_package_that_starts_a_thread_when_it_is_imported_is_refused(tmp_path, monkeypatch):
    """The filters would not hold that thread, so no worker comes up."""
    (tmp_path / "threads_at_once.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\nclass Value: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import threads_at_once

    monkeypatch.setattr(ProcessEnvironment, "value_modules", lambda self: frozenset({"threads_at_once"}))
    found = ProcessEnvironment().importable()
    here = ("threads_at_once", str(tmp_path / "threads_at_once.py"), False)
    more = types.SimpleNamespace(read=found.read, modules=(*found.modules, here))
    monkeypatch.setattr(ProcessEnvironment, "importable", lambda self: more)
    with pytest.raises(EnvironmentFailure, match="started a thread when it was imported"):
        run("1", values={"v": threads_at_once.Value()}, environment=ProcessEnvironment())
    del sys.modules["threads_at_once"]


def test_arrays_on_the_way_out_are_refused_with_the_way_to_data():
    """In SUBMIT, whatever the type of the output; scalars are numbers."""
    values = {"a": np.arange(3), "t": table()}
    hint = ".tolist()"
    for tp in (list[int], str, object):
        (refused,) = run("SUBMIT(answer=a)", values=values, outputs={"answer": tp})
        assert refused.submission is None
        assert hint in refused.error, refused.error
    refused, listed, records = run(
        "SUBMIT(answer=t)", "SUBMIT(answer=a.tolist())", "SUBMIT(answer=t[['n']].to_dict('records'))", values=values
    )
    assert ".to_dict()" in refused.error
    assert listed.submission == {"answer": [0, 1, 2]}
    assert records.submission == {"answer": [{"n": 1}, {"n": 2}, {"n": 3}]}


def test_scalars_are_the_numbers_they_hold():
    """What an aggregate gives can be submitted and passed on."""
    wanted = {"whole": int, "real": float, "flag": bool, "many": list[int], "when": object}
    code = "SUBMIT(whole=t.n.sum(), real=t.n.mean(), flag=(t.n > 0).all(), many=list(t.n.unique()), when=t.when.max())"
    (done,) = run(code, values={"t": table()}, outputs=wanted)
    assert done.error == ""
    assert {**done.submission, "when": None} == {"whole": 6, "real": 2.0, "flag": True, "many": [1, 2, 3], "when": None}
    assert done.submission["when"].year == 2025
    assert codec.encode([np.int64(3), np.array(4), np.bool_(True)]) == [3, 4, True]


def test_the_prompt_shows_shape_types_and_the_beginning():
    """In bounds, whatever the value holds."""
    big = pd.DataFrame({f"column {i}": ["x" * 10_000] * 2_000 for i in range(300)})
    values = {
        "matrix": np.zeros((3000, 5000)),
        "words": np.array(["y" * 100_000] * 50, dtype=object),
        "big": big,
        "small": table(),
        "series": pd.Series(range(10)),
    }
    contract = compile_contract(Signature(tuple(Field(n, object) for n in values), (Field("answer", str),)), values)
    found = {v.name: v for v in contract.variables}
    assert found["matrix"].size == "shape (3000, 5000), dtype float64"
    assert found["matrix"].preview.startswith("array([[0., 0., 0., ...")
    assert found["words"].size == "shape (50,), dtype object"
    assert found["big"].size.startswith("2,000 rows, 300 columns: column 0 ")
    assert found["big"].size.endswith("and 280 more")
    assert found["small"].size.startswith("3 rows, 3 columns: n int64, text ")
    assert (found["small"].whole, found["series"].whole, found["big"].whole) == (True, False, False)
    assert "2024-06-30" in found["small"].preview
    assert all(len(v.preview) < 1_000 for v in contract.variables)
    assert len(contract.text) < 8_000


def test_odd_values_with_a_shape_are_no_trouble():
    """Properties that raise, shapes that are none."""

    class Raises:
        @property
        def shape(self):
            raise RuntimeError

    class Pretends:
        shape = (1,)
        dtype = None

    assert not arrays.is_array(Raises())
    assert not arrays.is_array(types.SimpleNamespace(shape=3, dtype=1))
    assert arrays.preview(Pretends(), 100) == ("<Pretends>", False)
    assert arrays.size(types.SimpleNamespace(shape=(1,), columns=3)) == ""


def test_in_this_process_they_are_simply_there():
    """No package is to be named: the objects themselves."""
    given = np.zeros(2)
    (done,) = run("given[0] = 1\ntype(given).__name__", values={"given": given}, environment=InProcessEnvironment())
    assert (done.value, given.tolist()) == ("'ndarray'", [1.0, 0.0])
