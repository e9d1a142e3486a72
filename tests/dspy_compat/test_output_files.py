"""A DSPy signature whose output is a file: written by code, delivered by the run, also where the closing call names it."""

from __future__ import annotations

import sys
from pathlib import Path

import dspy
import dspy_scripted as scripted
import pytest
from dspy_scripted import fields, steps

from dspy_compat import RLM
from dszig_py import File
from dszig_py.environments.isolation import facts

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not facts()["landlock"], reason="writing needs Landlock")
WRITE = "with open(f'{scratch}/report.md', 'w') as f: f.write('# Report')"


class Report(dspy.Signature):
    """Write a report."""

    question: str = dspy.InputField()
    report: File = dspy.OutputField()
    pages: int = dspy.OutputField()


def asked(tmp_path, script, **options):
    with dspy.context(lm=scripted.lm(script)):
        return RLM(Report, output_dir=tmp_path / "out", **options)(question="?")


def test_a_report_is_a_field_of_the_prediction(tmp_path):
    """SUBMIT takes its path; what the field holds is a File in output_dir, with its size."""
    prediction = asked(tmp_path, steps(WRITE, "SUBMIT(report='report.md', pages=3)"))
    assert (prediction.report, prediction.pages) == (File(f"{tmp_path}/out/report.md"), 3)
    assert (Path(prediction.report.path).read_text(), prediction.report.size) == ("# Report", 8)


@pytest.mark.parametrize(("said", "delivered"), [("report.md", True), ("/etc/passwd", False), ("absent", False)])
def test_the_extracted_path_is_of_a_file_that_was_written_or_none(tmp_path, said, delivered):
    """dspy parses the closing reply to a File; only one from the scratch folder becomes the output."""
    script = steps(WRITE, other=lambda prompt: fields(report=said, pages=3))
    prediction = asked(tmp_path, script, max_iters=1)
    assert prediction.pages == 3
    if delivered:
        assert Path(prediction.report.path).read_text() == "# Report"
    else:
        assert prediction.report is None
        assert "report:" in prediction.termination.detail
    assert [path.name for path in tmp_path.glob("out/*")] == ["report.md"] * delivered
