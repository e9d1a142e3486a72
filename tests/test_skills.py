"""Skills: instructions, tools, packages and modules as one value."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from dszig_py import RLM, EnvironmentFailure, InputError, Skill
from dszig_py.lm import ScriptedLM
from dszig_py.prompts import INSTRUCTIONS

STATS = '"""Numbers in texts."""\nimport re\ndef total(text): return sum(map(int, re.findall(r"\\d+", text)))\n_hidden = 1\n'


def cell(code):
    return f"```python\n{code}\n```"


def run(*cells, skills, environment="process", **options):
    lm = ScriptedLM([cell(code) for code in cells])
    return RLM("text: str -> answer: str", lm=lm, skills=skills, environment=environment, **options)(
        text="1 and 22"
    ), lm


def lookup(word: str) -> str:
    """Look a word up."""
    return word.upper()


@pytest.mark.parametrize("environment", ["process", "inprocess"])
def test_a_module_is_imported_by_the_code_and_told_in_the_contract(environment):
    """By name, in a child of the same run too; what it defines is listed, what is private is not."""
    skill = Skill("stats", modules={"textstats": STATS})
    code = "import textstats\nfrom textstats import total\nSUBMIT(answer=f'{textstats.total(text)} {total(text)}')"
    pred, _ = run(code, skills=[skill], environment=environment)
    assert pred.answer == "23 23"
    assert "import textstats: Numbers in texts. (total)" in pred.trajectory.contract
    assert "textstats" not in sys.modules


def test_a_module_may_be_a_file_and_comes_back_with_a_new_worker(tmp_path):
    """Read when the skill is made; a worker that is lost is replaced, modules and all."""
    path = tmp_path / "m.py"
    path.write_text(STATS)
    skill = Skill("stats", modules={"textstats": path})
    path.unlink()
    pred, _ = run(
        "import os; os._exit(1)", "import textstats\nSUBMIT(answer=str(textstats.total(text)))", skills=[skill]
    )
    assert pred.answer == "23"


def test_instructions_join_the_strategy_under_the_skills_name():
    """After the instructions of the prompt, in the system message; a skill without any adds nothing."""
    skills = [Skill("counting", "Count twice."), Skill("empty")]
    _, lm = run("SUBMIT(answer='x')", skills=skills)
    assert lm.requests[0].messages[0].content == f"{INSTRUCTIONS['default']}\n\nSkill counting:\nCount twice."


def test_tools_of_skills_are_tools():
    """In the contract, callable, and their names must be free."""
    pred, _ = run("SUBMIT(answer=lookup('a'))", skills=[Skill("words", tools=[lookup])])
    assert pred.answer == "A"
    assert "lookup(word: str) -> str: Look a word up." in pred.trajectory.contract
    with pytest.raises(InputError, match="'lookup' is taken"):
        RLM("text -> answer", tools=[lookup], skills=[Skill("words", tools=[lookup])])


@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="numpy is not installed")
def test_packages_of_skills_can_be_imported():
    """Without the skill the worker cannot."""
    code = "import numpy\nSUBMIT(answer=str(numpy.arange(3).sum()))"
    pred, _ = run(code, skills=[Skill("arrays", packages=["numpy"])])
    assert pred.answer == "3"
    assert "Packages you may import: numpy." in pred.trajectory.contract
    pred, _ = run(code, "SUBMIT(answer='no')", skills=[])
    assert pred.answer == "no"


def test_an_environment_that_takes_no_packages_says_so():
    """Before any model call."""

    class Other:
        name = "other"

        async def open(self, contract, host, limits):
            raise AssertionError

    with pytest.raises(InputError, match=r"cannot be given packages \(numpy\)"):
        run(skills=[Skill("arrays", packages=["numpy"])], environment=Other())


def test_a_module_that_fails_ends_the_run_at_once():
    """It is the caller's code: the model cannot mend it."""
    with pytest.raises(EnvironmentFailure, match="ZeroDivisionError"):
        run(skills=[Skill("bad", modules={"broken": "1 / 0"})])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"name": "two words"}, "a skill's name"),
        ({"name": "s", "modules": {"not a name": ""}}, "identifier"),
        ({"name": "s", "modules": {"m": "def"}}, "module 'm'"),
    ],
)
def test_what_is_no_skill_is_refused(arguments, told):
    """When it is made."""
    with pytest.raises(InputError, match=told):
        Skill(**arguments)


def test_two_skills_of_one_name_are_refused():
    """Their instructions could not be told apart."""
    with pytest.raises(InputError, match="two skills are called a"):
        RLM("text -> answer", skills=[Skill("a"), Skill("a")])
