"""The task suite, its fake reader, and evaluations: oracles, lengths, resuming, budgets, curves, speed."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from costs import seconds_of
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import within

from dszig_py import Budget, InputError, LMError
from dszig_py.evals import (
    SYSTEMS,
    TASKS,
    Evaluation,
    Example,
    ReaderLM,
    evaluate,
    from_file,
    judge,
    metric,
    oolong,
    rows,
    ruler,
)
from dszig_py.evals.evaluation import interval
from dszig_py.evals.systems import Outcome
from dszig_py.evals.templates import TEMPLATES
from dszig_py.evals.words import SLOTS
from dszig_py.lm import Request, ScriptedLM
from dszig_py.usage import Usage

# -- oracles, each found again in the text alone, another way than the generator's ----------------


def by_search(context, question):
    key = re.search(r"for (\S+)\?", question)[1]
    (number,) = {s.split(" is ")[1].rstrip(".") for s in re.findall(r"The special number for \S+ is \d+\.", context)
                 if s.split(" is ")[0].endswith(f" {key}")}  # fmt: skip
    return number


def by_closure(context, question):
    value = re.search(r"\d{5}", question)[0]
    pairs = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\.", context)
    held, grown = {value}, True
    while grown:
        grown = {name for name, source in pairs if source in held} - held
        held |= grown
    return sorted(held - {value})


def by_two_lookups(context, question):
    def look(key):
        (value,) = [line.partition(": ")[2] for line in context.split("\n") if line.startswith(key)]
        return value

    return look(look(re.search(r"[0-9a-f]{24}", question)[0]))


def by_counting(context, _question):
    counts = sorted(((context.split().count(word), word) for word in set(context.split())), reverse=True)
    assert counts[2][0] > counts[3][0]
    return sorted(word for _, word in counts[:3])


ANY = {slot: f"(?:{'|'.join(map(re.escape, words))})" for slot, words in SLOTS.items()}
SHAPES = {
    kind: re.compile("|".join(re.sub(r"\\\{(\w+)\\\}", lambda m: ANY[m[1]], re.escape(t)) for t in templates))
    for kind, templates in TEMPLATES.items()
}


def kind_by_shape(text):
    (kind,) = [kind for kind, shape in SHAPES.items() if shape.fullmatch(text)]
    return kind


def by_reading(context, question):
    asked = re.search(r"ask for the kind (\w+)\?$", question)[1]
    return sum(kind_by_shape(line.partition(": ")[2]) == asked for line in context.split("\n"))


def by_reading_pairs(context, question):
    one, other = re.findall(r"at least once for the kind (\w+)|at least once for the kind (\w+)", question)
    one, other = "".join(one), "".join(other)
    asked = {}
    for line in context.split("\n"):
        user, _, text = line.removeprefix("User ").partition(": ")
        asked.setdefault(int(user), set()).add(kind_by_shape(text))
    return [
        [a, b]
        for a, b in combinations(sorted(asked), 2)
        if (one in asked[a] and other in asked[b]) or (other in asked[a] and one in asked[b])
    ]


def by_watching(context, question):
    """Where the thing is after each statement, looked up backwards from there."""
    thing = re.search(r"the (\w+) (?:in the end|before)", question)[1]
    names = "Wilma|Jonas|Beata|Ruben|Selma|Anton|Greta|Felix"
    told = re.findall(rf"(?:{names}) [^.]*\.", context)

    def place_of(who, until):
        for sentence in reversed(told[: until + 1]):
            if sentence.startswith(who) and re.search(r"went to|walked over|hurried", sentence):
                return sentence.rstrip(".").split()[-1]
        return None

    been = []
    for now in range(len(told)):
        last = [i for i, s in enumerate(told[: now + 1]) if re.search(rf"\bthe {thing}\b", s)]
        if not last:
            continue
        who, taken = told[last[-1]].split()[0], re.search(r"took|picked up|grabbed", told[last[-1]])
        place = place_of(who, now if taken else last[-1])
        if place and been[-1:] != [place]:
            been.append(place)
    before = re.search(r"before it was in the (\w+),", question)
    return been[-1] if before is None else been[-2]


BRUTE = {
    "needle": by_search,
    "multikey": by_search,
    "variable_tracking": by_closure,
    "kv": by_two_lookups,
    "frequent_words": by_counting,
    "label_count": by_reading,
    "label_pairs": by_reading_pairs,
    "facts": by_watching,
}


@settings(max_examples=80)
@given(st.sampled_from(sorted(TASKS)), st.integers(3_000, 16_000), st.integers(0, 10**6), st.integers(0, 50))
def test_every_oracle_is_found_again_by_brute_force(name, length, seed, index):
    """The answer follows from context and question alone, and scores 1."""
    task = TASKS[name]
    example = task.example(length, seed=seed, index=index)
    assert BRUTE[name](example.inputs["context"], example.inputs["question"]) == example.answer
    assert task.score(example, {"answer": example.answer}).value == 1.0


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("length", [8_000, 100_000, 1_000_000])
def test_a_context_has_the_length_asked_for(name, length):
    """Within 2 percent, at every size."""
    size = len(TASKS[name].example(length).inputs["context"])
    assert abs(size - length) <= 0.02 * length


@pytest.mark.parametrize("name", TASKS)
def test_the_longest_contexts_take_work_in_proportion(name):
    """10 million characters are made; sixteen times as many take about sixteen times as long, and not its square."""
    task = TASKS[name]
    assert abs(len(task.example(10_000_000).inputs["context"]) - 10_000_000) < 200_000
    few, many = (seconds_of(lambda size=size: task.example(size)) for size in (250_000, 4_000_000))
    assert many < 64 * max(few, 0.005)


def digest():
    text = json.dumps([[t.example(5_000, seed=3, index=i).inputs, t.example(5_000, seed=3, index=i).answer]
                       for t in TASKS.values() for i in range(3)])  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_same_seed_gives_the_same_examples_in_every_process():
    """Whatever the hash seed of the process; another seed or number gives others."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_evals; print(test_evals.digest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True, timeout=60)
    assert done.stdout.strip() == digest()
    task = TASKS["needle"]
    assert task.example(5_000, seed=1).inputs != task.example(5_000).inputs != task.example(5_000, index=1).inputs


def test_label_items_say_their_kind_to_a_reader_only():
    """At least 40 templates a kind, none of two kinds, and question words do not give them away."""
    assert all(len(set(templates)) >= 40 for templates in TEMPLATES.values())
    example = TASKS["label_count"].example(200_000)
    lines = [line.partition(": ")[2] for line in example.inputs["context"].split("\n")]
    kinds = [kind_by_shape(line) for line in lines]
    assert "".join(kind[0] for kind in kinds) == example.meta["kinds"]
    by_word: dict[str, Counter[str]] = {}
    for line, kind in zip(lines, kinds, strict=True):
        word = re.search(r"\b(who|whom|whose|where|which|what|how|when|why)\b", line.lower())
        by_word.setdefault(word[0] if word else "", Counter())[kind] += 1
    guessed = sum(counts.most_common(1)[0][1] for counts in by_word.values())  # the best rule there is for the word
    assert guessed < 0.45 * len(lines)


def test_each_task_says_what_it_needs_and_needles_are_smoke():
    """Abilities and source are there; exactly the tasks that a search solves are marked."""
    assert all(task.abilities and task.source for task in TASKS.values())
    assert {name for name, task in TASKS.items() if task.smoke} == {"needle", "multikey"}
    assert "semantics" in TASKS["label_count"].abilities


@pytest.mark.parametrize("length", [0, 1_999, 30_000_000])
def test_an_impossible_length_is_refused(length):
    """With the range in words."""
    with pytest.raises(InputError, match="2,000 to 20,000,000"):
        TASKS["kv"].example(length)


# -- scores -----------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(-10_000, 10_000))
def test_counts_score_by_distance(right, off):
    """0.75 to the power of the distance, whether the answer is a number or text around one."""
    example = Example("x", {}, right, "label_count", 8_000)
    value = TASKS["label_count"].score(example, {"answer": right + off}).value
    assert value == pytest.approx(0.75 ** abs(off), abs=1e-9)
    if right + off >= 0:
        assert TASKS["label_count"].score(example, {"answer": f"There are {right + off:,}."}).value == value


@pytest.mark.parametrize(
    ("task", "right", "given", "value"),
    [
        ("needle", "1234567", "It is 1234567.", 1.0),
        ("needle", "1234567", "21234567", 0.0),
        ("facts", "attic", "The attic", 1.0),
        ("facts", "attic", "the attic or the cellar", 0.0),
        ("variable_tracking", ["A", "B"], "a, b", 1.0),
        ("variable_tracking", ["A", "B"], ["A", "C"], 0.5),
        ("label_pairs", [[1, 2], [3, 4]], [(2, 1), (3, 4)], 1.0),
        ("label_pairs", [[1, 2], [3, 4]], [(1, 2)], pytest.approx(2 / 3)),
        ("label_pairs", [], [], 1.0),
        ("label_count", 3, "none", 0.0),
        ("label_count", 3, None, 0.0),
        ("label_count", 3, float("nan"), 0.0),
        ("label_count", 3, 10**400, 0.0),
        ("label_pairs", [[1, 2]], "nonsense", 0.0),
        ("label_pairs", [[1, 2]], [["a", {}], 5, None], 0.0),
    ],
)
def test_answers_are_judged(task, right, given, value):
    """Each kind of answer by its own rule, and no answer breaks a judge."""
    example = Example("x", {}, right, task, 8_000, {"choices": ("attic", "cellar")})
    score = TASKS[task].score(example, {"answer": given})
    assert score.value == value
    assert score.feedback


DEEP: list = []
for _ in range(2_000):
    DEEP = [DEEP]
CIRCLE: list = []
CIRCLE.append(CIRCLE)
ODD = {
    "int": 10**5_000,
    "nan": float("nan"),
    "digits": "9" * 5_000,
    "surrogate": "\ud800",
    "deep": DEEP,
    "circle": CIRCLE,
    "pairs": [[1, 10**5_000], ["x", None], [[2]], {3: 4}],
    "bytes": b"\xff",
    "object": object(),
}


@pytest.mark.parametrize("given", ODD.values(), ids=ODD)
def test_whatever_a_model_submits_is_judged_and_kept(given, tmp_path):
    """Ints too long to be written, lists too deep to be shown: a score and a line of strict JSON, not an evaluation's end."""
    number = tmp_path / "number.jsonl"
    number.write_text(
        '{"context": "c", "question": "q", "answer": 1.5}\n{"context": "c", "question": "q", "answer": "x"}'
    )
    own = from_file(number)
    for task in (*TASKS.values(), own):
        for example in task.examples(4_000, 2):
            score = task.score(example, {"answer": given})
            assert 0 <= score.value <= 1 and score.feedback

    async def submits(task, example, setup):
        return Outcome({"answer": given})

    path = tmp_path / "r.jsonl"
    evaluate("label_count", {"odd": submits}, lm=ReaderLM(), lengths=(4_000,), n=1, path=path)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert evaluate("label_count", {"odd": submits}, lm=ReaderLM(), lengths=(4_000,), n=2, path=path).rows[0].score < 1


def test_rows_and_metric_serve_programs_of_any_frame():
    """Rows are plain data; metric takes mappings or objects, and whatever else a frame passes; judge adds feedback."""
    (row,) = rows("label_count", 4_000, 1, seed=5)
    assert json.loads(json.dumps(row)) == row
    assert set(row) == {"context", "question", "answer", "id", "task", "length", "meta"}
    told = type("Prediction", (), {"answer": row["answer"] + 2})()
    assert metric(row, told, None, pred_name="generate_action", pred_trace=[]) == pytest.approx(0.75**2)
    assert "2 too many" in judge(row, told).feedback
    assert metric(row, {"answer": row["answer"]}) == 1.0


def test_no_task_needs_dspy():
    """The suite imports neither dspy nor LiteLLM."""
    code = (
        "import sys; from dszig_py.evals import *; print([m for m in ('dspy', 'litellm', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# -- rows of files ----------------------------------------------------------------------------------


def test_oolong_rows_are_read(tmp_path):
    """Answers wrapped in a list in text form; numbers by distance, labels by match."""
    path = tmp_path / "oolong.jsonl"
    given = [
        {
            "id": 1,
            "context_window_text": "ü" * 40_000,
            "question": "How many?",
            "answer": "[12]",
            "answer_type": "NUMERIC",
        },
        {"id": 2, "context_window_text": "b" * 9_000, "question": "Which?", "answer": "['more common than']"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    task = oolong(path)
    one, two = task.examples(0, 5)
    assert (one.answer, two.answer) == (12, "more common than")
    assert (one.length, two.length) == (32_768, 8_192)
    assert one.meta["answer_type"] == "NUMERIC"
    assert task.score(one, {"answer": "about 13"}).value == 0.75
    user = replace(one, answer=44_436, meta={"answer_type": "ANSWER_TYPE.USER"})
    assert [task.score(user, {"answer": f"User: {n}"}).value for n in (44_436, 44_437)] == [1.0, 0.0]
    counted = replace(one, meta={"answer_type": "ANSWER_TYPE.NUMERIC"})
    assert task.score(counted, {"answer": "Answer: 10"}).value == 0.75**2
    assert task.score(two, {"answer": "Answer: More common than."}).value == 1.0
    assert task.score(two, {"answer": "less common than"}).value == 0.0


def _oolong_task(path, answer):
    path.write_text(json.dumps({"context_window_text": "x", "question": "?", "answer": answer}) + "\n")
    return oolong(path)


DATES = st.dates(min_value=dt.date(1_000, 1, 1))  # strftime does not pad years


@given(DATES, st.sampled_from(["%Y-%m-%d", "%B %d, %Y", "%b %d %Y", "%d %B %Y", "%m/%d/%Y"]), DATES)
def test_dates_of_oolong_are_right_however_they_are_written(tmp_path_factory, right, form, other):
    """The published rows hold them as a date object's text; another date is wrong."""
    task = _oolong_task(
        tmp_path_factory.getbasetemp() / "dates.jsonl", f"[datetime.date({right.year}, {right.month}, {right.day})]"
    )
    (example,) = task.examples(0, 1)
    assert example.answer == right.isoformat()
    assert task.score(example, {"answer": f"Date: on {right.strftime(form)}."}).value == 1.0
    assert task.score(example, {"answer": other}).value == float(other == right)


@pytest.mark.parametrize(
    ("right", "given", "value"),
    [
        ("['more common than']", "Answer: ham is more common than spam", 1.0),
        ("['less common than']", "Answer: ham is more common than spam", 0.0),
        ("['same frequency as']", "they have the same frequency", 1.0),
        ("['more common than']", "more common than, or less common than", 0.0),
        ("['spam']", "Label: **spam**", 1.0),
        ("['spam']", "not spam", 0.0),
    ],
)
def test_sentences_of_oolong_are_judged_by_what_they_say(tmp_path, right, given, value):
    """A comparison is found in its sentence, where it is the only one; labels must match."""
    task = _oolong_task(tmp_path / "x.jsonl", right)
    (example,) = task.examples(0, 1)
    assert task.score(example, {"answer": given}).value == value


def test_ruler_questions_with_several_right_answers(tmp_path):
    """In folders called qa..., as RULER writes them, one of them is enough; elsewhere all are wanted."""
    row = json.dumps({"input": "text\nQuestion: who?", "outputs": ["Ann Lee", "Dr Lee"]}) + "\n"
    for folder, value in (("qa_1", 1.0), ("niah_multivalue", 0.5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "validation.jsonl").write_text(row)
        task = ruler(tmp_path / folder / "validation.jsonl")
        (example,) = task.examples(0, 1)
        assert task.score(example, {"answer": "It was Ann Lee."}).value == value
        assert task.score(example, {"answer": "It was Bob."}).value == 0.0


def test_ruler_rows_are_read(tmp_path):
    """The question is the last line; the score is the share of outputs found."""
    path = tmp_path / "validation.jsonl"
    path.write_text(
        json.dumps({"index": 0, "input": "text\ntext\nWhich two?", "outputs": ["7", "8"], "length": 4096}) + "\n"
    )
    task = ruler(path)
    (example,) = task.examples(0, 9)
    assert example.inputs["question"] == "Which two?"
    assert task.score(example, {"answer": "It is 7"}).value == 0.5


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_of_ones_own_are_read_with_a_field_map(tmp_path, kind):
    """Columns under other names, and a signature of one's own."""
    path = tmp_path / f"mine.{kind}"
    lines = {"csv": 'doc,ask,gold\n"a, b",how many?,2\n', "jsonl": '{"doc": "a, b", "ask": "how many?", "gold": 2}\n'}
    path.write_text(lines[kind])
    names = {"text": "doc", "question": "ask", "total": "gold"}
    task = from_file(path, fields=names, signature="text, question -> total: int")
    (example,) = task.examples(0, 1)
    assert (example.inputs, example.answer) == ({"text": "a, b", "question": "how many?"}, 2)
    assert task.score(example, {"total": 3}).value == 0.75


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "no rows"), ('{"question": "?"}\n', "row 1: no context_window_text"), ("[1]\n", "row 1"), ("{\n", "row 1")],
)
def test_a_file_that_does_not_fit_is_refused_by_its_row(tmp_path, content, told):
    """Before anything is run."""
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=told):
        oolong(path)


# -- the fake reader --------------------------------------------------------------------------------


def test_the_reader_errs_at_its_rate_and_always_on_the_same_items():
    """By kind, and not depending on the prompt an item stands in."""
    example = TASKS["label_count"].example(150_000)
    items = sorted({line.partition(": ")[2] for line in example.inputs["context"].split("\n")})
    lm = ReaderLM(errors={"person": 1.0, "number": 0.2})
    wrong = {kind: [lm.label(i) != kind for i in items if kind_by_shape(i) == kind] for kind in TEMPLATES}
    assert all(wrong["person"]) and not any(wrong["entity"])
    assert 0.1 < sum(wrong["number"]) / len(wrong["number"]) < 0.3
    assert [lm.label(i) for i in items] == [ReaderLM(errors={"person": 1.0, "number": 0.2}).label(i) for i in items]
    assert [ReaderLM(errors=0.5, seed=1).label(i) for i in items] != [ReaderLM(errors=0.5).label(i) for i in items]


def test_the_reader_sees_its_prompt_only_and_no_further_than_its_window():
    """A fact in the lost middle of a prompt is unknown to it; at either end it is read."""
    fact, question = "The special number for red-fox is 42.", "What is the special number for red-fox?"
    lm, pad = ReaderLM(window=1_000), "x " * 5_000
    for text in (f"{fact}{pad}{pad}{question}", f"{pad}{pad}{fact} {question}"):
        assert lm.read(Request.of(text)) == "42"
    assert lm.read(Request.of(f"{pad}{fact}{pad}{question}")) == "unknown"
    assert lm.read(Request.of("hello")) == "unknown"


@pytest.mark.parametrize("name", TASKS)
def test_a_run_on_the_reader_solves_every_task(name):
    """With code and, where it takes reading, sub-calls within its window."""
    found = evaluate(name, "rlm", lm=ReaderLM(window=4_000), lengths=(24_000,), n=2)
    assert [row.score for row in found.rows] == [1.0, 1.0], found.rows


def test_curves_have_the_order_of_the_paper():
    """The direct call falls with length, a run holds, and without sub-calls it fails where items must be read."""
    systems = ("direct", "rlm", "rlm-no-subcalls")
    lm = ReaderLM(window=4_000)
    found = evaluate(["needle", "label_count"], systems, lm=lm, lengths=(8_000, 64_000), n=6)
    score = {(cell.task, cell.length, cell.system): cell.score for cell in found.cells}
    for task in ("needle", "label_count"):
        assert score[task, 8_000, "direct"] == 1.0 > score[task, 64_000, "direct"] + 0.3
        assert score[task, 64_000, "rlm"] >= 0.95
    assert score["needle", 64_000, "rlm-no-subcalls"] == 1.0
    assert max(score["label_count", length, "rlm-no-subcalls"] for length in (8_000, 64_000)) < 0.5
    cost = {(cell.task, cell.length, cell.system): cell.cost for cell in found.cells}
    assert cost["needle", 64_000, "rlm"] < cost["needle", 64_000, "direct"] / 5


def test_curves_keep_their_order_where_the_model_errs():
    """One item in a hundred is labelled wrong: a run loses by it with length, and stays well ahead of the others."""
    lm, systems = ReaderLM(window=4_000, errors=0.01), ("direct", "rlm", "rlm-no-subcalls")
    found = evaluate(["label_count", "label_pairs"], systems, lm=lm, lengths=(8_000, 64_000), n=6)
    score = {(cell.task, cell.length, cell.system): cell.score for cell in found.cells}
    for task in ("label_count", "label_pairs"):
        others = max(score[task, 64_000, "direct"], score[task, 64_000, "rlm-no-subcalls"])
        assert 1.0 > score[task, 64_000, "rlm"] > others + 0.2
        assert score[task, 8_000, "rlm"] > score[task, 64_000, "rlm"]


# -- evaluations ------------------------------------------------------------------------------------


def test_an_evaluation_shows_itself(tmp_path):
    """Rows, cells, table, HTML, JSON; what is in the file is what was returned."""
    path = tmp_path / "r.jsonl"
    found = evaluate(["needle", "facts"], ["direct", "rlm"], lm=ReaderLM(), lengths=(4_000, 8_000), n=2, path=path)
    assert len(found.rows) == 16 and len(found.cells) == 8
    assert str(found).count("\n") == 8 and "$" in str(found) and "2 submitted" in str(found)
    assert found._repr_html_().count("<tr>") == 9
    assert json.loads(json.dumps(found.record()))["cells"][0]["n"] == 2
    loaded = Evaluation.load(path)
    assert loaded.rows == found.rows and loaded.table() == found.table()


def test_intervals_hold_the_mean_and_shrink_with_the_number():
    """A percentile bootstrap, the same for the same scores."""
    few, many = [0.0, 1.0] * 5, [0.0, 1.0] * 100
    assert interval(few) == interval(few)
    low, high = interval(many)
    assert interval(few)[0] < low < 0.5 < high < interval(few)[1]
    assert 0.40 < low < 0.46 and interval([1.0, 1.0]) == (1.0, 1.0)


def test_a_rerun_does_only_what_is_missing(tmp_path):
    """More examples, lengths and systems are added to a file; what is in it is not run again."""
    path, done = tmp_path / "r.jsonl", []
    evaluate("needle", "rlm", lm=ReaderLM(), lengths=(4_000,), n=3, path=path, on_row=done.append)
    found = evaluate("needle", ["rlm", "direct"], lm=ReaderLM(), lengths=(4_000,), n=4, path=path, on_row=done.append)
    assert len(found.rows) == 8 == len(done) == len({row.key for row in done})


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path):
    """SIGKILL in the middle, and half a line at the end of the file: every finished row counts, none is run twice."""
    path = tmp_path / "r.jsonl"
    code = f"""
        import asyncio
        from dszig_py.evals import ReaderLM, evaluate
        done = []
        class Stuck(ReaderLM):
            async def complete(self, request):
                await asyncio.sleep(600 if len(done) >= 12 else 0)
                return await super().complete(request)
        options = dict(lm=Stuck(), lengths=(4_000,), n=60, path={str(path)!r}, max_concurrency=4)
        evaluate("needle", **options, on_row=done.append)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    try:
        within(lambda: child.poll() is not None or (path.exists() and path.read_bytes().count(b"\n") >= 12))
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = path.read_bytes().count(b"\n") - 1
    with path.open("ab") as file:
        file.write(b'{"task": "needle", "len')
    again = []
    found = evaluate("needle", lm=ReaderLM(), lengths=(4_000,), n=60, path=path, on_row=again.append)
    assert len(found.rows) == 60 and len(again) == 60 - kept and kept < 60
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_another_evaluation_is_not_mixed_in(tmp_path):
    """A file knows its model, seed and budget, and only one process writes to it at a time."""
    path = tmp_path / "r.jsonl"
    evaluate("needle", lm=ReaderLM(), lengths=(4_000,), n=1, path=path)
    for other in ({"seed": 1}, {"budget": Budget(max_iters=3)}, {"lm": ReaderLM(model="other")}):
        with pytest.raises(InputError, match="another evaluation"):
            evaluate("needle", **{"lm": ReaderLM(), "lengths": (4_000,), "n": 1, "path": path, **other})
    code = f"from dszig_py.evals import *; evaluate('needle', lm=ReaderLM(), lengths=(4_000,), n=1, path={str(path)!r})"

    def meanwhile(_row):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert "is writing to it" in done.stderr

    evaluate("needle", lm=ReaderLM(), lengths=(4_000,), n=2, path=path, on_row=meanwhile)
    for foreign in ('{"schema": "other"}\n', "notes without an end", '{"schema": "other"}\nand more'):
        path.write_text(foreign)
        with pytest.raises(InputError, match="line 1"):
            evaluate("needle", lm=ReaderLM(), lengths=(4_000,), n=1, path=path)
        assert path.read_text() == foreign


def test_a_full_disk_ends_an_evaluation_and_a_rerun_goes_on(tmp_path):
    """It says so in its own error; what was written is not run again, and a line that was cut is not mixed in."""
    path = tmp_path / "r.jsonl"
    code = f"""
        import resource
        from dszig_py.evals import ReaderLM, evaluate
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))  # takes a part of a line first, as a full disk does
        evaluate("needle", "direct", lm=ReaderLM(), lengths=(4_000,), n=20, path={str(path)!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert f"DszigError: {path}: results cannot be written" in done.stderr
    kept = len(Evaluation.load(path).rows)
    assert 0 < kept < 20 and path.stat().st_size == 2_000
    again = []
    options = {"lm": ReaderLM(), "lengths": (4_000,), "n": 20, "path": path, "on_row": again.append}
    assert len(evaluate("needle", "direct", **options).rows) == 20 and len(again) == 20 - kept


def test_what_a_provider_failed_at_is_tried_again(tmp_path):
    """A row of a failed run scores 0 and is run again next time; a prompt that is too long is the system's own failure."""
    path = tmp_path / "r.jsonl"
    replies = [LMError("scripted: no credit"), LMError("scripted: ContextWindowExceededError: too long")]
    options = {"lengths": (4_000,), "n": 2, "path": path, "max_concurrency": 1}
    found = evaluate("needle", "direct", lm=ScriptedLM(replies, model="m"), **options)
    assert [(row.cause, row.score) for row in found.rows] == [("provider", 0.0), ("model", 0.0)]
    again = []
    found = evaluate("needle", "direct", lm=ReaderLM(model="m"), on_row=again.append, **options)
    assert [row.index for row in again] == [0]
    assert [row.score for row in found.rows] == [1.0, 0.0]


def test_failure_after_failure_ends_an_evaluation():
    """A wrong key is not tried a thousand times."""
    lm = ScriptedLM(lambda _: (_ for _ in ()).throw(LMError("scripted: wrong key")), model="m")
    with pytest.raises(Exception, match="20 runs in a row failed.*wrong key"):
        evaluate("needle", "direct", lm=lm, lengths=(4_000,), n=1_000)
    assert len(lm.requests) < 200


def test_a_total_is_never_passed_whatever_runs_side_by_side():
    """A run begins only while its whole limit is left; the evaluation says that it stopped."""
    each, total = Budget(max_cost=0.01), Budget(max_cost=0.05)
    found = evaluate("needle", "rlm", lm=ReaderLM(), lengths=(4_000,), n=100, budget=each, total=total)
    assert 0.03 < sum(row.cost for row in found.rows) <= 0.05
    assert "total max_cost" in found.stopped and "stopped" in str(found)
    with pytest.raises(InputError, match="needs max_cost in the budget of one run"):
        evaluate("needle", lm=ReaderLM(), total=total)
    slow = ReaderLM(delay=0.1)
    found = evaluate(
        "needle", "direct", lm=slow, lengths=(4_000,), n=60, total=Budget(max_seconds=0.5), max_concurrency=1
    )
    assert len(found.rows) <= 5 and "max_seconds" in found.stopped


def test_what_failed_runs_cost_is_not_forgotten_by_a_rerun(tmp_path):
    """A row that is tried again was paid for: the total counts both, in the same process or a later one."""
    path = tmp_path / "r.jsonl"

    async def costly(task, example, setup):
        return Outcome({}, "error", "provider", "broke off", usage=Usage(calls=1, input_tokens=10, cost=0.02))

    options = {"lm": ReaderLM(), "lengths": (4_000,), "path": path, "budget": Budget(max_cost=0.02)}
    for _ in range(2):
        evaluate("needle", {"mine": costly}, n=2, **options)
    found = evaluate("needle", {"mine": costly}, n=2, total=Budget(max_cost=0.09), **options)
    assert "0.08 of 0.09 are spent" in found.stopped and len(found.rows) == 2


def test_all_runs_share_one_limit_of_calls_in_flight():
    """However many sub-calls each of them makes."""
    now, most = [0], [0]

    class Counting(ReaderLM):
        async def complete(self, request):
            now[0] += 1
            most[0] = max(most[0], now[0])
            try:
                return await super().complete(request)
            finally:
                now[0] -= 1

    lm = Counting(window=1_000, delay=0.005)
    evaluate("label_count", "rlm", lm=lm, lengths=(30_000,), n=4, max_concurrency=5)
    assert most[0] == 5


def test_systems_of_ones_own_and_unknown_ones():
    """A mapping of callables, module:callable names, and clear words for what cannot be found or fails."""

    async def shout(task, example, setup):
        if example.id.endswith("/1"):
            raise ZeroDivisionError("mine")
        return Outcome({"answer": example.answer})

    found = evaluate("kv", {"shout": shout}, lm=ReaderLM(), lengths=(4_000,), n=2)
    assert [(row.score, row.kind) for row in found.rows] == [(1.0, "submitted"), (0.0, "error")]
    assert "ZeroDivisionError: mine" in found.rows[1].detail
    for wrong, told in (("rml", "did you mean 'rlm'"), ("nowhere:x", "cannot be imported"), ((), "no system")):
        with pytest.raises(InputError, match=told):
            evaluate("kv", wrong, lm=ReaderLM())
    assert SYSTEMS["dspy-rlm"] == "dspy_compat.evals:dspy_rlm"
    with pytest.raises(InputError, match="did you mean 'needle'"):
        evaluate("needel", lm=ReaderLM())


def test_plots_are_drawn_or_said_to_need_matplotlib(tmp_path):
    """PNG and SVG by suffix."""
    found = evaluate("needle", ["rlm", "direct"], lm=ReaderLM(), lengths=(4_000, 8_000), n=1)
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(InputError, match=r"dszig-py\[plots\]"):
            found.plot(tmp_path / "x.png")
        return
    assert found.plot(tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in found.plot(tmp_path / "x.svg").read_bytes()


MEMORY = """
    from dszig_py.evals import ReaderLM, evaluate

    sizes = []
    def measure(_row):
        sizes.append(int(open("/proc/self/statm").read().split()[1]) * 4096)
    evaluate("needle", lm=ReaderLM(), lengths=(300_000,), n=160, max_concurrency=8, on_row=measure)
    print((max(sizes) - max(sizes[:40])) / 1e6)
"""


def printed(code):
    run = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=180)
    return [float(number) for number in done.stdout.split()]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_flat_in_the_number_of_examples():
    """From the 40th to the 160th: kept contexts would be 36 megabytes."""
    (grown,) = printed(MEMORY)
    assert grown < 15


RAY = """
    import os
    from anyio._backends._asyncio import WorkerThread
    WorkerThread.MAX_IDLE_TIME = 0.05  # seconds: Ray's servers die with the thread that has started them
    from dszig_py import Budget
    from dszig_py.evals import ReaderLM, evaluate
    found = evaluate("needle", ["direct", "lossy:dies_once"], lm=ReaderLM(), lengths=(4_000,), n=60, engine="ray",
                     workers=2, path="r.jsonl", max_concurrency=4, budget=Budget(max_cost=0.01), total=Budget(max_cost=0.1))
    assert {row.score for row in found.rows} == {1.0}, found
    assert os.path.exists("mark"), "no actor was lost"
    assert ("needle", 4_000, 2, "lossy:dies_once") in {row.key for row in found.rows}, "what was lost was not done again"
    assert 0.08 < sum(row.cost for row in found.rows) <= 0.1 and "max_cost" in found.stopped, found
    assert open("r.jsonl").read().count("\\n") == len(found.rows) + 1
    assert not os.path.exists("r.jsonl.runs"), "a journal was left behind"
    print("fine")
"""
LOSSY = """
import os
from dszig_py.evals import SYSTEMS
async def dies_once(task, example, setup):
    if example.id.endswith("/2") and not os.path.exists(os.environ["MARK"]):
        open(os.environ["MARK"], "w").close()
        os._exit(1)
    return await SYSTEMS["rlm"](task, example, setup)
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_the_same_evaluation_runs_on_ray(tmp_path):
    """Results in the same file, a lost actor's jobs done again, a total kept across actors."""
    (tmp_path / "lossy.py").write_text(LOSSY)
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(tmp_path), "MARK": str(tmp_path / "mark")}
    with (tmp_path / "log").open("w") as log:  # not a pipe: Ray's servers would hold it open
        run = [sys.executable, "-c", textwrap.dedent(RAY)]
        done = subprocess.run(run, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, cwd=tmp_path, timeout=600,
                              check=False)  # fmt: skip
    assert done.returncode == 0 and "fine" in (tmp_path / "log").read_text(), (tmp_path / "log").read_text()[-4_000:]


def test_ray_is_asked_for_where_it_is_missing(monkeypatch):
    """By the name of the extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"dszig-py\[ray\]"):
        evaluate("needle", lm=ReaderLM(), engine="ray")


def test_a_process_that_made_a_synchronous_call_can_fork():
    """subprocess with preexec_fn and multiprocessing fork: the child neither waits for the loop's thread nor at its end."""
    code = """
        import os
        from dszig_py import portal
        async def nothing(): pass
        portal.call(nothing)
        child = os.fork()
        if not child:
            raise SystemExit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    run = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    assert subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout.strip() == "7"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n", 0),
        ("n", "2"),
        ("max_concurrency", 1.5),
        ("workers", -1),
        ("workers", 0),
        ("lengths", "8K"),
        ("lengths", 8_000),
        ("lengths", ["8K"]),
        ("budget", {"max_cost": 1}),
        ("total", 5),
    ],
)
def test_an_option_of_another_kind_is_told_by_its_name(option, value):
    """Before any model is asked, and not as an error of whatever meets it first."""
    with pytest.raises(InputError, match=f"^{option} "):
        evaluate("needle", "direct", lm="reader", **{"lengths": (4_000,), "n": 1, option: value})
