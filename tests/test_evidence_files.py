"""Evidence in files, folders and texts: positions are bytes, and the host reads them again by its own descriptors."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dszig_py import RLM, Evidence, File, Signature, Text
from dszig_py.contract import compile_contract
from dszig_py.environments._worker import text
from dszig_py.environments.in_place import in_place
from dszig_py.environments.isolation import facts
from dszig_py.evidence import MOST_CHARS, problem
from dszig_py.files import opened
from dszig_py.lm import ScriptedLM
from dszig_py.render import html

LOG = "erste Zeile: süß\nERROR disk é full\n" * 50
WHERE = ["process", "inprocess"]
as_utf8 = text._as_utf8


@pytest.fixture
def given_files(tmp_path):
    """A log, and a folder with files in it, one of them in a sub-folder of an odd name."""
    (tmp_path / "app.log").write_text(LOG)
    folder = tmp_path / "docs"
    (folder / "it's").mkdir(parents=True)
    (folder / "a.txt").write_text("nothing here")
    (folder / "it's" / "b.txt").write_text("ünder the second one\n")
    (folder / "c.bin").write_bytes(b"\0the second one")
    return {"log": tmp_path / "app.log", "docs": folder, "note": "Größe 42 " * 20_000}


def run(*cells, inputs, environment="process", signature="log: File, docs: Folder, note: Text"):
    if environment == "process" and not facts()["landlock"]:
        pytest.skip("a folder needs Landlock")
    lm = ScriptedLM([f"```python\n{code}\n```" for code in cells])
    rlm = RLM(f"{signature} -> evidence: list[Evidence]", lm=lm, environment=environment)
    return rlm(**inputs), lm


@pytest.mark.parametrize("environment", WHERE)
def test_spans_of_files_are_made_by_place_by_text_and_by_name(given_files, environment):
    """Of the input, of a Text that code made of it, of a file of a folder whatever way it was come by, or of its name."""
    code = """
t = log.text()
m = t.search(r"ERROR (.*)")
e = [cite(log, m.start(1), m.end(1)), cite(t, m.start(1), m.end(1)), cite("log", m.start(1), m.end(1)), cite("disk é full")]
f = docs["it's"]["b.txt"]
e += [cite(f, 0, 6), cite(docs["it's/b.txt"].text(), 0, 6), cite("docs[\\"it's/b.txt\\"]", 0, 6), cite("the second one")]
e += [cite(note, 0, 7), cite("42")]
SUBMIT(evidence=e)
"""
    pred, _ = run(code, inputs=given_files, environment=environment)
    at = LOG.encode().index("disk é".encode())
    assert pred.evidence == [
        *[Evidence("log", at, at + 12, "disk é full")] * 4,
        *[Evidence('docs["it\'s/b.txt"]', 0, 6, "ünder")] * 3,
        Evidence('docs["it\'s/b.txt"]', 7, 21, "the second one"),
        Evidence("note", 0, 7, "Größe"),
        Evidence("note", 8, 10, "42"),
    ]
    for shown in (html.page(pred.trajectory), pred._repr_html_()):
        assert f"<figcaption>log[{at}:{at + 12}]</figcaption>" in shown
        assert "<blockquote>the second one</blockquote>" in shown


def test_cite_moves_positions_to_whole_characters_as_slices_do(given_files):
    """A position in the middle of a character is that of the next one; what is then cited is what the slice holds."""
    at = LOG.encode().index("ß".encode())
    pred, _ = run(f"SUBMIT(evidence=[cite(log, {at - 3}, {at + 1})])", inputs=given_files)
    assert pred.evidence == [Evidence("log", at - 3, at + 2, LOG.encode()[at - 3 : at + 2].decode())]


RECORDS = [
    (("log", 0, 5, "Erste"), "holds 'erste', not 'Erste'"),
    (("log", 0, 10**12, "e"), "is no span of its"),
    (("log", -4, -1, "ull"), "is no span of its"),
    (("log[3]", 0, 1, "s"), "is no item of log"),
    (("log", 15, 17, "?"), "cuts a character; the whole ones are [16:18]"),
    (("docs", 0, 1, "n"), "is no text"),
    (("docs['no.txt']", 0, 1, "n"), "is no item of docs"),
    (("docs['../secret']", 0, 6, "SECRET"), "is no item of docs"),
    (("docs['/etc/passwd']", 0, 4, "root"), "is no item of docs"),
    (("docs['link']", 0, 6, "SECRET"), "is no item of docs"),
    (("docs['up/secret']", 0, 6, "SECRET"), "is no item of docs"),
    (("docs['pipe']", 0, 1, "x"), "is no item of docs"),
    (("docs['a.txt\\0']", 0, 1, "n"), "is no item of docs"),
    (("docs[0]", 0, 1, "n"), "is no item of docs"),
    (("note['x']", 0, 1, "G"), "is no item of note"),
    (("note", 0, MOST_CHARS + 1, "x"), "is longer than 20,000 bytes"),
]


@pytest.mark.parametrize(("record", "told"), RECORDS, ids=lambda r: r[0] if isinstance(r, tuple) else None)
def test_the_host_takes_no_span_that_the_file_does_not_hold(given_files, record, told):
    """Records made by hand: places that are not there, cut characters, and ways out of the folder."""
    docs = given_files["docs"]
    (docs.parent / "secret").write_text("SECRET")
    (docs / "link").symlink_to(docs.parent / "secret")
    (docs / "up").symlink_to(docs.parent)
    os.mkfifo(docs / "pipe")
    signature = Signature.parse("log: File, docs: Folder, note: Text -> evidence: Evidence")
    contract = compile_contract(signature, {**given_files, "note": "G" + "x" * 30_000})
    inputs = {v.name: v.value for v in contract.variables}
    assert told in problem(Evidence(*record), inputs, in_place)


def test_a_made_up_quotation_is_refused_at_the_line_of_submit(given_files):
    """The model reads what the file holds there, and may correct it."""
    record = {"variable": "log", "start": 0, "end": 5, "text": "Erste"}
    pred, lm = run(f"SUBMIT(evidence=[{record!r}])", "SUBMIT(evidence=[cite('erste')])", inputs=given_files)
    assert "log[0:5] holds 'erste', not 'Erste'" in lm.requests[1].messages[-1].content
    assert pred.evidence == [Evidence("log", 0, 5, "erste")]


def test_what_is_cited_is_what_was_opened(given_files):
    """A file put in the path's place after the start is not what evidence is judged by."""
    signature = Signature.parse("log: File -> evidence: Evidence")
    contract = compile_contract(signature, {"log": given_files["log"]})
    inputs = {v.name: v.value for v in contract.variables}
    (given_files["log"].parent / "other").write_text("other words")
    os.replace(given_files["log"].parent / "other", given_files["log"])
    assert problem(Evidence("log", 0, 5, "erste"), inputs, in_place) == ""
    assert "holds 'erste'" in problem(Evidence("log", 0, 5, "other"), inputs, in_place)


@pytest.mark.parametrize(
    ("encoding", "text"), [("utf-8-sig", "hé!"), ("utf-16", "h€é"), ("cp1252", "café, naïve"), ("ascii", "plain")]
)
def test_other_encodings_are_cited_by_the_positions_of_their_text(tmp_path, encoding, text):
    """A byte order mark is no position; of UTF-16 they are those of its UTF-8, which is made of files up to 4 MiB alone."""
    path = tmp_path / "f"
    path.write_bytes(text.encode(encoding))
    pred, _ = run("SUBMIT(evidence=[cite(log, 1)])", inputs={"log": path}, signature="log: File")
    (found,) = pred.evidence
    assert (found.start, found.text) == (1, text[1:])
    path.write_bytes(("x" * (2 << 20)).encode("utf-16"))
    value = opened("log", File, path, 100)
    assert "up to 4 MiB" in problem(Evidence("log", 0, 1, "x"), {"log": value}, in_place)


@given(
    st.text(st.sampled_from("aé€😀\n"), min_size=1, max_size=40),
    st.integers(-3, 80),
    st.integers(-3, 80),
    st.booleans(),
)
def test_what_is_accepted_is_in_the_text(content, start, end, lie):
    """Of any span: accepted exactly where its bytes are those characters, and the text claimed is theirs."""
    data = content.encode()
    value = opened("t", Text, content, 100)
    try:
        said = data[start:end].decode() if 0 <= start < end <= len(data) else ""
    except UnicodeDecodeError:
        said = ""
    claimed = Evidence("t", start, end, said + "x" * lie)
    assert (problem(claimed, {"t": value}, in_place) == "") == (bool(said) and not lie)


@given(st.text(st.sampled_from("aé€😀\ud800"), max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_a_text_is_encoded_for_the_part_that_is_read(content, start, stop):
    """Each part is that of the whole, across every piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dszig_py.environments.in_place._PIECE", 7)
        whole = content.encode("utf-8", "surrogatepass")
        source = in_place("t", opened("t", Text, content, 100))._source
        assert source.size == len(whole)
        assert source.read(start, stop) == whole[start:stop]


def test_the_host_reads_the_span_and_no_more(tmp_path, monkeypatch):
    """Evidence at the end of a large sparse file costs the host a few bytes."""
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(5_000_000_000)
        os.pwrite(file.fileno(), b"the end", 4_999_999_993)
    value, asked = opened("log", File, path, 100), []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: asked.append(size) or pread(fd, size, at))
    assert problem(Evidence("log", 4_999_999_993, 5_000_000_000, "the end"), {"log": value}, in_place) == ""
    assert 7 <= sum(asked) < 100


def test_many_citations_of_one_file_decode_it_once(tmp_path, monkeypatch):
    """A text in UTF-16 is decoded whole: for each of a hundred thousand spans it would keep the host busy for minutes."""
    (tmp_path / "wide.txt").write_bytes(("Größe " * 100).encode("utf-16"))
    signature = Signature.parse("log: File -> e: list[Evidence]", types={"Evidence": Evidence})
    contract = compile_contract(signature, {"log": tmp_path / "wide.txt"})
    decoded = []
    monkeypatch.setattr(text, "_as_utf8", lambda *given: decoded.append(given) or as_utf8(*given))
    spans = [{"variable": "log", "start": 0, "end": 2, "text": "Gr"}] * 300
    assert len(contract.validate([], {"e": spans})["e"]) == 300
    assert len(decoded) == 1


def test_what_was_never_said_cannot_be_cited(given_files):
    """cite raises in the cell for a text that no file holds, a span outside, a file that is not there, and no input."""
    code = """
for arguments in [("no such words",), (log, 5, 5), (log, 0, 10**9), ("docs['no']", 0, 1), ("docs[", 0, 1), (docs, 0, 1), (open, 0, 1)]:
    try: print("cited", cite(*arguments))
    except ValueError as error: print(error)
SUBMIT(evidence=[])
"""
    pred, _ = run(code, inputs=given_files)
    printed = pred.trajectory.iterations[0].execution.stdout
    assert "cited" not in printed
    assert len(printed.splitlines()) == 7
    assert "is no span" in printed
