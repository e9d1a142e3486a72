"""Every optimizer of dspy that runs offline, on a task where better instructions or demos give better answers."""

from __future__ import annotations

import json
import logging
import random
import threading

import dspy
import dspy_scripted as scripted
import pytest
from dspy_scripted import asked, done, fields, is_action, step

import dspy_compat
from dspy_compat import RLM

MARK = "Cross-check hard questions."
SIGNATURE = "context: str, question: str -> answer: str, length: int"

# gepa warns of what dspy gives it; optuna of its own experimental parts
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gepa"),
    pytest.mark.filterwarnings("ignore:.*multivariate.*"),
]


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("dspy").setLevel(logging.ERROR)
    yield
    logging.getLogger("dspy").setLevel(logging.INFO)


def example(number, hard):
    secret = f"S{number:03}"
    context = f"{'filler ' * 100}secret={secret}{' filler' * 100}"
    question = f"What is the {'hard' if hard else 'easy'} secret number {number}?"
    return dspy.Example(context=context, question=question, answer=secret, length=4).with_inputs("context", "question")


TRAIN = [example(n, hard=n % 2 == 1) for n in range(6)]
DEV = [example(n, hard=n % 2 == 1) for n in range(10, 14)]


def solver(prompt, last):
    """Finds and submits; on hard questions wrongly, unless instructions or a demo tell how."""
    if is_action(prompt):
        if not done(last):
            return step("found = context.split('secret=')[1][:4]\nprint(found)", "look for it")
        shown = prompt.removesuffix(last)
        taught = MARK in shown or "found = " in shown or "SUBMIT(answer=found" in shown
        if "the hard secret" in last and not taught:
            return step("SUBMIT(answer='unknown', length=0)")
        return step("SUBMIT(answer=found, length=len(found))", "it is found")
    names = asked(prompt)
    values = dict.fromkeys(names, MARK)
    if "module_advice" in names:
        values["module_advice"] = json.dumps({"generate_action": MARK, "extract": MARK})
    if "Outputs will be a JSON object" in prompt:
        return json.dumps(values)
    return fields(**values) if names else f"```\n{MARK}\n```"


def metric(gold, pred, trace=None, *_):
    return float(getattr(pred, "answer", None) == gold.answer)


def gepa_metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
    return dspy.Prediction(score=metric(gold, pred), feedback=dspy_compat.feedback(pred))


def score(program):
    return dspy.Evaluate(devset=DEV, metric=metric, num_threads=4, display_progress=False)(program).score


def labeled(program):
    return dspy.LabeledFewShot(k=3).compile(program, trainset=TRAIN)


def bootstrap(program):
    return dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=2, max_labeled_demos=2).compile(
        program, trainset=TRAIN
    )


def random_search(program):
    return dspy.BootstrapFewShotWithRandomSearch(
        metric=metric, max_bootstrapped_demos=2, max_labeled_demos=2, num_candidate_programs=2, num_threads=4
    ).compile(program, trainset=TRAIN, valset=DEV)


def with_optuna(program):
    pytest.importorskip("optuna")
    from dspy.teleprompt import BootstrapFewShotWithOptuna

    return BootstrapFewShotWithOptuna(
        metric=metric, max_bootstrapped_demos=2, max_labeled_demos=2, num_candidate_programs=2, num_threads=4
    ).compile(program, max_demos=2, trainset=TRAIN, valset=DEV)


def copro(program):
    return dspy.COPRO(metric=metric, breadth=2, depth=1).compile(
        program, trainset=DEV, eval_kwargs={"num_threads": 4, "display_progress": False}
    )


def mipro(program):
    pytest.importorskip("optuna")
    return dspy.MIPROv2(
        metric=metric, auto=None, num_candidates=2, max_bootstrapped_demos=1, max_labeled_demos=1, num_threads=4
    ).compile(program, trainset=TRAIN, valset=DEV, num_trials=4, minibatch=False)


def gepa(program):
    return dspy.GEPA(
        metric=gepa_metric, max_metric_calls=60, reflection_lm=scripted.lm(solver), num_threads=4, use_merge=False
    ).compile(program, trainset=TRAIN, valset=DEV)


def simba(program):
    pytest.importorskip("numpy", reason="SIMBA needs NumPy, which is not installed")
    return dspy.SIMBA(metric=metric, bsize=4, num_candidates=2, max_steps=2, max_demos=2, num_threads=4).compile(
        program, trainset=TRAIN
    )


def infer_rules(program):
    return dspy.InferRules(
        metric=metric, num_candidates=1, num_rules=1, num_threads=4, max_bootstrapped_demos=1, max_labeled_demos=0
    ).compile(program, trainset=TRAIN, valset=DEV)


def better_together(program):
    program.set_lm(dspy.settings.lm)
    p = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=1, max_labeled_demos=0)
    return dspy.BetterTogether(metric=metric, p=p).compile(
        program, trainset=TRAIN, valset=DEV, strategy="p", num_threads=4
    )


HELPS = [bootstrap, random_search, with_optuna, copro, mipro, gepa, simba, infer_rules, better_together]


@pytest.mark.parametrize("optimize", [labeled, *HELPS], ids=lambda f: f.__name__)
def test_an_optimizer_improves_what_it_can_and_the_contract_holds(optimize, tmp_path):
    """Tuned: at least as good, typed outputs, the original untouched, and saved, loaded programs prompt the same."""
    random.seed(0)
    lm = scripted.lm(solver)
    with dspy.context(lm=lm):
        original = RLM(SIGNATURE)
        before = score(original)
        assert before == 50
        state = original.dump_state()
        tuned = optimize(original)
        if optimize is not better_together:  # which wants its LM set on the student
            assert original.dump_state() == state
        after = score(tuned)
        assert after == (100 if optimize in HELPS else before)
        pred = tuned(**DEV[0].inputs())
        assert (pred.answer, pred.length, pred.termination.kind) == (DEV[0].answer, 4, "submitted")
        if optimize is better_together:
            tuned.set_lm(None)
        for name in ("state.json", "state.pkl"):
            tuned.save(tmp_path / name)
            loaded = RLM(SIGNATURE)
            loaded.load(tmp_path / name, **({"allow_pickle": True} if name.endswith("pkl") else {}))
            assert prompts(loaded) == prompts(tuned)
        tuned.save(tmp_path / "program", save_program=True)
        assert prompts(dspy.load(tmp_path / "program", allow_pickle=True)) == prompts(tuned)


def prompts(program):
    lm = scripted.lm(solver)
    with dspy.context(lm=lm):
        program(**DEV[1].inputs())
    return lm.engine_.prompts


def letters(texts):
    """An embedding that tells hard questions from easy ones."""
    import numpy as np

    return np.array([[text.count("hard") + 1.0, text.count("easy") + 1.0] for text in texts], dtype=np.float32)


class Trained:
    """A training job that gives the model it was started for."""

    def __init__(self, lm):
        self.lm, self.thread = lm, threading.Thread(target=int)
        self.thread.start()

    def result(self):
        return self.lm


def test_fine_tuning_gets_the_steps_of_the_runs_that_passed():
    """BootstrapFinetune as far as the provider: each row ends in a decision, after the contract that it was made under."""
    rows, lm = [], scripted.lm(solver)
    lm.finetune = lambda train_data, **options: rows.extend(train_data) or Trained(lm)
    program = RLM(SIGNATURE, trace_steps="all")
    program.set_lm(lm)
    tuned = dspy.BootstrapFinetune(metric=metric, num_threads=2).compile(program, trainset=TRAIN)
    assert tuned(**DEV[0].inputs()).answer == DEV[0].answer
    assert len(rows) == 6  # two steps of each of the three easy ones
    for row in rows:
        *asked_, said = [message["content"] for message in row["messages"]]
        assert "SUBMIT(answer: str, length: int)" in "".join(asked_)
        assert "found" in said


def test_nearest_examples_become_demos_of_each_call():
    """KNNFewShot bootstraps the nearest examples in each call; the program it is given keeps its own prompts."""
    pytest.importorskip("numpy", reason="KNNFewShot needs NumPy, which is not installed")
    nearest = dspy.Embedder(letters, caching=False)  # dspy's cache on disk is of all that ran here before
    with dspy.context(lm=scripted.lm(solver)):
        original = RLM(SIGNATURE)
        easy = [example(n, hard=False) for n in range(4)]
        tuned = dspy.KNNFewShot(k=2, trainset=easy, vectorizer=nearest, metric=metric, max_labeled_demos=0).compile(
            original
        )
        state = original.dump_state()
        assert score(tuned) == 100
        assert original.dump_state() == state


def test_an_ensemble_of_programs_answers_by_majority():
    """The vote is on the last output, as of any module."""
    with dspy.context(lm=scripted.lm(solver)):
        programs = [RLM("context, question -> length: int, answer: str") for _ in range(3)]
        both = dspy.Ensemble(reduce_fn=dspy.majority).compile(programs)
        assert both(**DEV[0].inputs()).answer == DEV[0].answer


def test_gepa_reflects_on_runs_that_hit_a_limit():
    """A run ended by a limit or a failure is a prediction with a trace, so reflection sees it."""

    def limited(prompt, last):
        if is_action(prompt) and "hard secret" in last and MARK not in prompt:
            return step("print('still looking')")
        if asked(prompt)[-1:] == ["length"]:
            return fields(answer="unknown", length=0)
        return solver(prompt, last)

    reflector = scripted.lm(solver)
    with dspy.context(lm=scripted.lm(limited)):
        tuned = dspy.GEPA(
            metric=gepa_metric,
            max_metric_calls=40,
            reflection_lm=reflector,
            reflection_minibatch_size=4,
            num_threads=4,
            component_selector=lambda *a, **k: ["generate_action"],
        ).compile(RLM(SIGNATURE, max_iters=2), trainset=TRAIN, valset=DEV)
        assert score(tuned) == 100
    assert any("ran out of iterations" in prompt for prompt in reflector.engine_.prompts)
    assert max(map(len, reflector.engine_.prompts)) < 40_000


def test_infer_rules_leaves_the_original_as_it_was():
    """Copies own their signatures, so rules appended in place stay in the copy."""
    with dspy.context(lm=scripted.lm(solver)):
        original = RLM(SIGNATURE)
        copy = original.deepcopy()
        copy.generate_action.signature.instructions += MARK
        assert MARK not in original.generate_action.signature.instructions
        assert original.generate_action.signature is not copy.generate_action.signature


def test_rows_that_reach_no_prompt_are_in_no_state():
    """LabeledFewShot's, and the labeled ones of BootstrapFewShot: whole contexts, some with an output of ``extract``."""
    rows = [example(n, hard=False) for n in range(4)]
    with dspy.context(lm=scripted.lm(solver)):
        tuned = [
            dspy.LabeledFewShot(k=3).compile(RLM(SIGNATURE), trainset=rows),
            dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=1).compile(RLM(SIGNATURE), trainset=rows),
        ]
    assert all("filler filler" not in json.dumps(program.dump_state()) for program in tuned)
    assert all(program.extract.demos for program in tuned)


def explorer(prompt, last):
    """Nine decisions that print 9,000 characters each, then the answer."""
    if done(last) < 8:
        return step(f"print(context[{done(last) * 9_000}:][:9_000])", "read the next part")
    return step("SUBMIT(answer='x')")


def test_bootstrapped_demos_are_small(tmp_path, capsys):
    """Four demos from 1 MB contexts: a state file of at most 64 KB, prompts at most 1.5 times as long."""
    train = [
        dspy.Example(context=f"line {n} of the book\n" * 50_000, question=f"q{n}", answer="x").with_inputs(
            "context", "question"
        )
        for n in range(4)
    ]
    volumes = []
    plain = RLM("context, question -> answer")
    with dspy.context(lm=scripted.lm(explorer)):
        tuned = dspy.BootstrapFewShot(metric=metric, max_bootstrapped_demos=4).compile(plain, trainset=train)
    assert len(tuned.generate_action.demos) == 4
    for program in (plain, tuned):
        lm = scripted.lm(explorer)
        with dspy.context(lm=lm):
            assert program(**train[0].inputs()).answer == "x"
        volumes.append(sum(map(len, lm.engine_.prompts)))
    tuned.save(tmp_path / "state.json")
    size = (tmp_path / "state.json").stat().st_size
    with capsys.disabled():
        print(f"\n[four demos: state {size:,} bytes, prompts {volumes[0]:,} -> {volumes[1]:,} characters]")
    assert size <= 64 * 1024
    assert volumes[1] <= 1.5 * volumes[0]
