"""What verbose=True shows: lines, and bars for batches where there is somebody to look at them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import types

import pytest

from dszig_py import RLM, LMError
from dszig_py.lm import ScriptedLM
from dszig_py.render import progress
from dszig_py.render.progress import BatchBars

CODE = """\
one = llm_query('alone')
answers = llm_query_batched([str(n) for n in range(40)])
typed = predict_batched('text -> n: int', [dict(text='1')] * 5)
children = rlm_query_batched(['a', 'b', 'c'])
"""


def cell(code):
    return f"```python\n{code}\n```"


def sub(request):
    text = request.messages[0].content
    if "live REPL" in text:
        return cell("llm_query_batched(['x', 'y', 'z', 'w']); SUBMIT('s')")
    if request.prompt == "7":
        raise LMError("down")
    return '{"n": 1}' if request.schema else "r"


def make(**options):
    root = ScriptedLM([cell(CODE), cell("SUBMIT('done')")])
    return RLM("text -> answer", lm=root, sub_lm=ScriptedLM(sub), max_llm_calls=200, **options)


def drawn(text):
    """The bars as they were last drawn, by name: how many of how many, and what stands behind."""
    found = {}
    for line in re.split(r"[\r\n]", text):
        if match := re.match(r"(\w+_batched): +\d+%.*?(\d+)/(\d+) \[.*?(?:, (\d+ failed))?\]", line):
            found[match[1]] = (int(match[2]), int(match[3]), match[4])
    return found


def test_each_batch_of_the_root_has_a_bar_that_counts_its_calls():
    """A single call and the batches inside children have none; failures are told; nothing is left open."""
    file = io.StringIO()
    bars = BatchBars(file, every=0)
    make(on_event=bars)(text="t")
    shown = drawn(file.getvalue())
    assert set(shown) == {"llm_query_batched", "predict_batched", "rlm_query_batched"}
    assert {name: total for name, (_, total, _) in shown.items()} == {
        "llm_query_batched": 40,
        "predict_batched": 5,
        "rlm_query_batched": 3,
    }
    assert all(done <= total for done, total, _ in shown.values())
    assert bars._bars == {}


def test_a_bar_ends_full_and_says_what_failed():
    """Drawn whenever something changed: the last drawing has all calls."""
    file = io.StringIO()
    bars = BatchBars(file)
    last = {}

    def tell(event):
        bars(event)
        for bar in bars._bars.values():
            bar.refresh()
        last.update(drawn(file.getvalue()))

    make(on_event=tell)(text="t")
    assert last == {
        "llm_query_batched": (40, 40, "1 failed"),
        "predict_batched": (5, 5, None),
        "rlm_query_batched": (3, 3, None),
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("file", "barred"), [(io.StringIO, False), (Terminal, True)])
def test_verbose_draws_bars_on_a_terminal_and_none_into_a_file(monkeypatch, file, barred):
    """The lines are there in both, and whole."""
    told = file()
    monkeypatch.setattr(sys, "stderr", told)
    make(verbose=True)(text="t")
    text = told.getvalue()
    assert bool(drawn(text)) == barred
    assert "llm_query failed: llm_query failed: down" in text
    assert re.search(r"(^|[\r\n])iteration 2: .*\n", text)


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    """IPython is asked where it is loaded, never imported for it."""
    assert not progress.in_notebook()
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert progress.in_notebook()
    shell.config = {}
    assert not progress.in_notebook()


def test_tqdm_and_rich_load_when_they_are_used():
    """A run that shows nothing needs neither."""
    program = (
        "import sys\nfrom dszig_py import RLM\n"
        "RLM('text -> answer', lm=lambda p: '```python\\nSUBMIT(1)\\n```', max_iters=1)(text='t')\n"
        "assert not {'tqdm', 'rich', 'IPython', 'litellm'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
