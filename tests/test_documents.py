"""Documents as inputs: PDF, Word, Excel and HTML files as text, page by page."""

from __future__ import annotations

import importlib
import sys
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dszig_py import RLM, InputError, read_document
from dszig_py.cli import main
from dszig_py.lm import ScriptedLM


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed (extra [docs])")


def pdf(path, pages):
    """A PDF with one line of text on each page, written by hand."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET"
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {font} /Contents {5 + 2 * number} 0 R >>")
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    start = len(data)
    data += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    data += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode()
    path.write_bytes(data)
    return path


def docx(path, body):
    """A Word file that holds just this body."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    kinds = "http://schemas.openxmlformats.org/package/2006"
    main_kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{kinds}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-'
            f'package.relationships+xml"/><Override PartName="/word/document.xml" ContentType="{main_kind}"/></Types>',
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{kinds}/relationships"><Relationship Id="r" Type="{relation}" Target="word/document.xml"/>'
            "</Relationships>",
        )
        file.writestr("word/document.xml", f"<w:document {space}><w:body>{body}</w:body></w:document>")
    return path


def test_a_pdf_keeps_its_pages_and_their_numbers(tmp_path):
    """As one text with a line before each page, and as a list of texts."""
    library("pypdfium2")
    found = read_document(pdf(tmp_path / "contract.pdf", ["The fee is 40", "", "Signed by Ada"]))
    assert [page.label for page in found.pages] == ["1", "2", "3"]
    assert found.texts == ["The fee is 40", "", "Signed by Ada"]
    assert found.text == "[page 1]\nThe fee is 40\n\n[page 2]\n\n\n[page 3]\nSigned by Ada"


def test_pages_of_a_pdf_are_drawn_for_models_that_see(tmp_path):
    """PNG pictures, one a page, no larger than a model can use; other files have no pages to draw."""
    library("pypdfium2")
    images = library("PIL.Image")
    found = read_document(pdf(tmp_path / "c.pdf", ["one", "two"]))
    drawn = list(found.images(dpi=72))
    assert len(drawn) == 2
    assert drawn[0].media_type == "image/png"
    (tmp_path / "p.png").write_bytes(drawn[0].data)
    with images.open(tmp_path / "p.png") as image:
        assert image.size == (612, 792)
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(InputError, match="only the pages of a PDF"):
        next(read_document(tmp_path / "t.txt").images())


def test_word_files_keep_headings_and_tables(tmp_path):
    """As Markdown."""
    library("mammoth")
    library("markdownify")
    row = (
        "<w:tr><w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc></w:tr>"
    )
    body = "<w:p><w:r><w:t>Terms apply.</w:t></w:r></w:p><w:tbl>" + row.format("Fee", "40") + "</w:tbl>"
    text = read_document(docx(tmp_path / "a.docx", body)).text
    assert "Terms apply." in text
    assert "Fee" in text
    assert "| Fee | 40 |" in text


def test_workbooks_are_sheets_of_tab_separated_rows(tmp_path):
    """Values as they are shown, empty cells kept in their places, each sheet under its name."""
    openpyxl = library("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "fees"
    book.active.append(["name", None, 40])
    book.active.append(["two\nlines", 1.5, True])
    book.create_sheet("notes").append(["x"])
    book.save(tmp_path / "b.xlsx")
    found = read_document(tmp_path / "b.xlsx")
    assert found.text == "[sheet fees]\nname\t\t40\ntwo lines\t1.5\tTrue\n\n[sheet notes]\nx"


def test_html_is_what_a_reader_sees(tmp_path):
    """Scripts and styles are left out, headings and links stay."""
    library("markdownify")
    page = "<html><style>p{}</style><script>evil()</script><h1>Fees</h1><p>The fee is <a href='u'>40</a>.</p></html>"
    (tmp_path / "a.html").write_text(page)
    assert read_document(tmp_path / "a.html").text == "# Fees\n\nThe fee is [40](u)."


def test_a_document_is_an_input_as_text_or_as_pages(tmp_path):
    """By the field's type; the index of a page is its number less one."""
    library("pypdfium2")
    found = read_document(pdf(tmp_path / "c.pdf", ["one", "two"]))
    code = "```python\nSUBMIT(answer=f'{type(whole).__name__} {whole[:8]} {pages[1]}')\n```"
    rlm = RLM("whole: str, pages: list[str] -> answer: str", lm=ScriptedLM([code]))
    assert rlm(whole=found, pages=found).answer == "str [page 1] two"


def test_the_command_line_takes_documents_with_an_at_sign(tmp_path, capsys):
    """A field that is text gets the whole, a list its pages; what cannot be read is told with the file's name."""
    library("pypdfium2")
    place = pdf(tmp_path / "c.pdf", ["The quick brown fox"] * 3)
    assert main(["run", "contract -> answer", "--contract", f"@{place}", "-m", "offline", "--json"]) == 0
    assert main(["run", "pages: list[str] -> answer", "--pages", f"@{place}", "-m", "offline", "--json"]) == 0
    capsys.readouterr()
    place.write_bytes(b"no pdf at all")
    assert main(["run", "contract -> answer", "--contract", f"@{place}", "-m", "offline"]) == 2
    assert "c.pdf cannot be read as pdf" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.xlsx"])
@settings(max_examples=15)
@given(data=st.binary(max_size=300))
def test_broken_files_are_refused_with_their_names(tmp_path_factory, name, data):
    """Whatever the bytes are: an InputError, no other."""
    modules = {"a.pdf": "pypdfium2", "a.docx": "mammoth", "a.xlsx": "openpyxl"}
    library(modules[name])
    place = tmp_path_factory.mktemp("broken") / name
    place.write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_document(place)


def test_other_files_are_text_and_missing_ones_are_told(tmp_path):
    """UTF-8, whatever the ending; bytes that are none are replaced."""
    (tmp_path / "a.log").write_bytes(b"\xef\xbb\xbfline \xff\n")
    assert read_document(tmp_path / "a.log").text == "line \ufffd\n"
    with pytest.raises(InputError, match="No such file"):
        read_document(tmp_path / "none.txt")


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(InputError, match=r'pip install "dszig-py\[docs\]"'):
        read_document(pdf(tmp_path / "a.pdf", ["x"]))


def test_importing_the_package_loads_none_of_the_libraries():
    """They load when a file of theirs is read."""
    before = {name for name in ("pypdfium2", "mammoth", "openpyxl", "markdownify") if name in sys.modules}
    importlib.import_module("dszig_py.documents")
    after = {name for name in ("pypdfium2", "mammoth", "openpyxl", "markdownify") if name in sys.modules}
    assert after == before
