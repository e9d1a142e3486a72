"""Putting our RLM into dspy, and taking it out again."""

from __future__ import annotations

import subprocess
import sys
import types

import cloudpickle
import dspy
import dspy_scripted as scripted
import pytest

import dspy_compat

PLACES = [dspy, dspy.predict, sys.modules["dspy.predict.rlm"]]


@pytest.fixture(autouse=True)
def clean():
    dspy_compat.uninstall(dspy)
    yield
    dspy_compat.uninstall(dspy)


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_all_three_names_are_replaced_and_put_back():
    """install and uninstall, each twice: the second time changes nothing; the original stays reachable."""
    stock = dspy.RLM
    assert not dspy_compat.is_installed()
    assert dspy_compat.original() is stock
    for _ in range(2):
        assert dspy_compat.install(dspy) is dspy
        assert [place.RLM for place in PLACES] == [dspy_compat.RLM] * 3
        assert dspy_compat.is_installed(dspy)
        assert dspy_compat.original() is stock
    for _ in range(2):
        dspy_compat.uninstall(dspy)
        assert [place.RLM for place in PLACES] == [stock] * 3
        assert not dspy_compat.is_installed(dspy)


def test_installed_is_a_with_block_that_restores_what_was_there():
    """Also after an exception, and nested in an installation it leaves that one alone."""
    stock = dspy.RLM
    with pytest.raises(KeyError), dspy_compat.installed(dspy):
        assert dspy.RLM is dspy_compat.RLM
        raise KeyError
    assert dspy.RLM is stock
    dspy_compat.install()
    with dspy_compat.installed():
        pass
    assert dspy.RLM is dspy_compat.RLM


@pytest.mark.parametrize("thing", ["dspy", object(), types.ModuleType("other")])
def test_what_is_not_dspy_is_refused(thing):
    """With a TypeError that says what it got."""
    with pytest.raises(TypeError, match="the dspy module, not"):
        dspy_compat.install(thing)


@pytest.mark.parametrize("version", ["2.6.0", "3.3.9", "3.5.0", "4.0", "unknown"])
def test_another_version_of_dspy_is_refused(version):
    """With an ImportError that names both versions, and nothing is replaced."""
    fake = types.ModuleType("dspy")
    fake.Predict, fake.Module, fake.__version__ = dspy.Predict, dspy.Module, version
    with pytest.raises(ImportError, match=rf"dspy {version} is not supported.*3\.4"):
        dspy_compat.install(fake)
    assert not dspy_compat.is_installed(fake)


def test_without_dspy_the_error_says_what_to_install():
    """In a process that has none."""
    told = python("import sys; sys.modules['dspy'] = None\nimport dspy_compat\ndspy_compat.install()")
    assert told.stderr.strip().splitlines()[-1] == "ImportError: dspy is not installed: pip install 'dspy>=3.4,<3.5'"


def test_importing_it_imports_neither_dspy_nor_litellm():
    """It costs nothing until used."""
    told = python(
        "import sys, dspy_compat, dszig_py\nprint([m for m in ('dspy', 'litellm', 'numpy') if m in sys.modules])"
    )
    assert told.stdout.strip() == "[]", told.stderr


def lookup(name: str) -> str:
    """A tool."""
    return name.upper()


def test_a_program_of_the_stock_class_loads_and_runs_after_install(tmp_path):
    """Whole programs are pickled by the class's place, where ours is by then: it takes the state over."""
    old = dspy.RLM("text: str -> answer: str", max_iters=7, max_llm_calls=9, tools=[lookup])
    old.generate_action.signature = old.generate_action.signature.with_instructions("Tuned words.")
    old.generate_action.demos = [dspy.Example(variables_info="v", iteration="1", reasoning="DEMO", code="pass")]
    old.save(tmp_path / "program", save_program=True)
    dspy_compat.install(dspy)
    loaded = dspy.load(tmp_path / "program", allow_pickle=True)
    assert type(loaded) is dspy_compat.RLM
    assert (loaded.max_iters, loaded.max_llm_calls) == (7, 9)
    lm = scripted.lm(scripted.steps("SUBMIT(answer=lookup('a') + text)"))
    with dspy.context(lm=lm):
        assert loaded(text="x").answer == "Ax"
    assert "Tuned words." in lm.engine_.prompts[0]
    assert "DEMO" in lm.engine_.prompts[0]


class Outer(dspy.Module):
    """A user's program around dspy's own RLM."""

    def __init__(self):
        super().__init__()
        self.readers = [
            dspy.RLM("text -> answer", max_iters=7, tools=[lookup], interpreter_factory=dspy.LocalInterpreter)
        ]

    def forward(self, text):
        return self.readers[0](text=text)


@pytest.mark.parametrize("how", ["cloudpickle", "program"])
def test_programs_around_the_stock_class_load_as_well(how, tmp_path):
    """By cloudpickle and as a saved whole program, with the options and the interpreter that they were given."""
    outer = Outer()
    outer.readers[0].generate_action.demos = [
        dspy.Example(variables_info="v", iteration="1", reasoning="DEMO", code="pass")
    ]
    outer.save(tmp_path / "program", save_program=True)
    dumped = cloudpickle.dumps(outer)
    dspy_compat.install(dspy)
    loaded = cloudpickle.loads(dumped) if how == "cloudpickle" else dspy.load(tmp_path / "program", allow_pickle=True)
    (reader,) = loaded.readers
    assert (type(reader), reader.max_iters) == (dspy_compat.RLM, 7)
    lm = scripted.lm(scripted.steps("SUBMIT(answer=lookup('a') + text)"))
    with dspy.context(lm=lm):
        pred = loaded(text="x")
    assert (pred.answer, pred.run.environment) == ("Ax", "interpreter")
    assert "DEMO" in lm.engine_.prompts[0]
    assert cloudpickle.loads(cloudpickle.dumps(loaded)).readers[0].max_iters == 7


def test_a_state_of_the_stock_class_loads_by_instructions_and_demos(tmp_path):
    """Field rows match by position, whatever they name, so those are not taken."""
    old = dspy.RLM("text: str -> answer: str", tools=[lookup])
    old.generate_action.signature = old.generate_action.signature.with_instructions("Tuned words.")
    old.generate_action.demos = [dspy.Example(variables_info="v", iteration="1", reasoning="DEMO", code="pass")]
    old.save(tmp_path / "state.json")
    new = dspy_compat.RLM("text: str -> answer: str")
    descriptions = [f.json_schema_extra["desc"] for f in new.generate_action.signature.fields.values()]
    new.load(tmp_path / "state.json")
    lm = scripted.lm(scripted.steps("SUBMIT(answer=text)"))
    with dspy.context(lm=lm):
        assert new(text="x").answer == "x"
    assert "Tuned words." in lm.engine_.prompts[0]
    assert "DEMO" in lm.engine_.prompts[0]
    assert [f.json_schema_extra["desc"] for f in new.generate_action.signature.fields.values()] == descriptions


def test_programs_written_for_the_stock_class_run_when_installed():
    """``dspy.RLM(...)`` inside a user's module is ours while installed."""

    class Program(dspy.Module):
        def __init__(self):
            super().__init__()
            self.read = dspy.RLM("text -> answer", max_iters=3)

        def forward(self, text):
            return self.read(text=text)

    with dspy_compat.installed(dspy), dspy.context(lm=scripted.lm(scripted.steps("SUBMIT(answer=text * 2)"))):
        program = Program()
        assert [name for name, _ in program.named_predictors()] == ["read.generate_action", "read.extract"]
        assert program(text="ab").answer == "abab"
