"""Documents as text: PDF, Word, Excel, HTML and plain files, page by page, and pages of a PDF as images.

Each format is read by a library kept for it (extra ``[docs]``: pypdfium2, mammoth, openpyxl, markdownify), loaded when a file
of it is met. Rejected: one library for all of them (markitdown), which brings a model runtime of a hundred megabytes along
and does not keep the pages of a PDF apart. Files are read in this process: they are the caller's, and so is the trust in
what parses them.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from dszig_py.errors import InputError
from dszig_py.images import Image

__all__ = ["FORMATS", "Document", "Page", "read_document"]

NO_LIBRARY = 'reading {kind} files needs {package}: pip install "dszig-py[docs]"'
NO_PAGES = "{name}: only the pages of a PDF file can be drawn"
MAX_IMAGE_PIXELS = 4_000  # of a page's longer side
MAX_CELLS = 5_000_000  # of a workbook


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a PDF, one sheet of a workbook, or the whole of what has no pages. ``label``: "3", or the sheet's name."""

    label: str
    text: str
    _drawn: tuple[Path, int] | None = field(default=None, repr=False, compare=False)

    def image(self, *, dpi: int = 150) -> Image:
        """The page as a picture. Raises :class:`InputError` for what is no page of a PDF file."""
        if self._drawn is None:
            raise InputError(NO_PAGES.format(name=f"page {self.label}"))
        path, index = self._drawn
        return next(_images(path, dpi, index))


@dataclass(frozen=True)
class Document:
    """A file's text. As an input it is text with a line such as ``[page 3]`` before each page (a field that is ``str``), or
    a list of the pages' texts (``list[str]``), or of the pages as pictures (``list[Image]``), whose index is the page's
    number less one.
    """

    name: str
    kind: str
    pages: tuple[Page, ...]
    path: Path | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        """All pages in one text, each under its number or name where there are several."""
        if len(self.pages) == 1 and self.kind not in ("pdf", "xlsx"):
            return self.pages[0].text
        word = "sheet" if self.kind == "xlsx" else "page"
        return "\n\n".join(f"[{word} {page.label}]\n{page.text}" for page in self.pages)

    @property
    def texts(self) -> list[str]:
        """The pages' texts."""
        return [page.text for page in self.pages]

    def images(self, *, dpi: int = 150) -> Iterator[Image]:
        """Pages as PNG pictures, drawn one by one: for models that see (``dspy.Image(image.url)`` in DSPy's own programs).

        Raises :class:`InputError` for what has no pages to draw.
        """
        if self.kind != "pdf" or self.path is None:
            raise InputError(NO_PAGES.format(name=self.name))
        yield from _images(self.path, dpi)


def read_document(path: str | os.PathLike[str]) -> Document:
    """The document at ``path``, by its ending: .pdf, .docx, .xlsx, .html and .htm; anything else is read as UTF-8 text.

    Raises :class:`InputError` for a file that cannot be read, is not what its ending says, or whose library is missing.
    """
    place = Path(path).expanduser()
    kind = FORMATS.get(place.suffix.lower(), "text")
    try:
        pages = tuple(_READERS[kind](place))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{place}: {error.strerror or error}") from error
    except Exception as error:  # each library has errors of its own, and broken files raise anything
        raise InputError(f"{place} cannot be read as {kind}: {type(error).__name__}: {error}") from error
    return Document(place.name, kind, pages, place)


def _library(name: str, kind: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(NO_LIBRARY.format(kind=kind, package=package)) from error


def _images(path: Path, dpi: int, only: int | None = None) -> Iterator[Image]:
    for page in _pdf(path, only):
        scale = min(dpi / 72, MAX_IMAGE_PIXELS / max(page.get_size()))
        drawn = io.BytesIO()
        page.render(scale=scale).to_pil().save(drawn, format="PNG")
        yield Image(drawn.getvalue(), "image/png")


def _pdf(path: Path, only: int | None = None) -> Iterator[Any]:
    """The pages of a PDF (or one, by its index), each open while it is looked at."""
    document = _library("pypdfium2", "PDF", "pypdfium2").PdfDocument(path.read_bytes())
    try:
        for index in range(len(document)) if only is None else (only,):
            page = document[index]
            try:
                yield page
            finally:
                page.close()
    finally:
        document.close()


def _pdf_pages(path: Path) -> Iterator[Page]:
    for number, page in enumerate(_pdf(path), 1):
        text = page.get_textpage()
        try:
            told = str(text.get_text_range()).replace("\r\n", "\n").strip()
            yield Page(str(number), told, (path, number - 1))
        finally:
            text.close()


def _docx(path: Path) -> Iterator[Page]:
    mammoth = _library("mammoth", "Word", "mammoth")
    with path.open("rb") as file:
        # Pictures would come along as megabytes of base64.
        found = mammoth.convert_to_html(file, convert_image=mammoth.images.img_element(_no_picture))
    yield Page("1", _markdown(found.value))


def _no_picture(image: Any) -> dict[str, str]:
    del image
    return {"src": ""}


def _xlsx(path: Path) -> Iterator[Page]:
    openpyxl = _library("openpyxl", "Excel", "openpyxl")
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    left = MAX_CELLS
    try:
        for sheet in book.worksheets:
            lines: list[str] = []
            for row in cast("Iterator[tuple[Any, ...]]", sheet.iter_rows(values_only=True)):
                left -= len(row)
                if left < 0:
                    raise InputError(f"{path} has more than {MAX_CELLS:,} cells; give it as a table (pandas)")
                lines.append(
                    "\t".join("" if cell is None else str(cell).replace("\n", " ") for cell in row).rstrip("\t")
                )
            yield Page(str(sheet.title), "\n".join(lines).strip("\n"))
    finally:
        book.close()


def _html(path: Path) -> Iterator[Page]:
    yield Page("1", _markdown(path.read_bytes().decode("utf-8-sig", "replace")))


def _markdown(html: str) -> str:
    markdownify = _library("markdownify", "HTML", "markdownify")
    soup = _library("bs4", "HTML", "markdownify").BeautifulSoup(html, "html.parser")
    for part in soup(["script", "style", "noscript", "template"]):
        part.decompose()
    return str(markdownify.MarkdownConverter(heading_style="ATX").convert_soup(soup)).strip()


def _text(path: Path) -> Iterator[Page]:
    yield Page("1", path.read_bytes().decode("utf-8-sig", "replace"))


FORMATS = {".pdf": "pdf", ".docx": "docx", ".xlsx": "xlsx", ".xlsm": "xlsx", ".html": "html", ".htm": "html"}
"""Endings that are read as documents -> the kind of them."""

_READERS: dict[str, Callable[[Path], Iterator[Page]]] = {
    "pdf": _pdf_pages,
    "docx": _docx,
    "xlsx": _xlsx,
    "html": _html,
    "text": _text,
}
