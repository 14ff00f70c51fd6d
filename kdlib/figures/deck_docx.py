"""The handout as a Word file that an instructor can edit; equal bytes for equal contents."""

import io

from docx import Document
from docx.enum.table import WD_TABLE_ALIGNMENT
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.shared import Cm, Pt

from .deck_pptx import FONT, MADE, same_every_time

A4 = (Cm(21), Cm(29.7))
MARGIN = Cm(1.4)
FORMULA = "L = α · T² · KL( p ‖ q ) + (1 − α) · CE( y, q at T = 1 )"
BY_HAND = [
    ["", "A", "B", "C", "your sum"],
    ["teacher at T = 2: 4 : 2 : 1", "", "", "", ""],
    ["student", "1/3", "1/3", "1/3", "1"],
    ["KL: Σ p · log(p / q)", "", "", "", ""],
    ["total: α · T² · KL + (1 − α) · log 3", "", "", "", ""],
]
SWEEP = ["share of the base rate", "learning rate", "accuracy", "macro-F1", "loss", "did it move?"]


def handout(symbols: list, mistakes: list, rates: list, claims: list[dict]) -> bytes:
    """The two pages of handout.html as a .docx file."""
    page = _blank()
    page.add_heading("Knowledge distillation: the loss and its mistakes", 1)
    formula = page.add_paragraph(FORMULA)
    formula.alignment = WD_ALIGN_PARAGRAPH.CENTER
    formula.runs[0].font.size = Pt(14)
    _part(page, "Symbols", symbols, [2, 16.2])
    title = "By hand: odds 16 : 4 : 1, a student that knows nothing, T = 2, α = 0.5, label A"
    _part(page, title, BY_HAND, [7.4, 2.7, 2.7, 2.7, 2.7])
    _part(page, "The usual mistakes, and how each looks", mistakes, [5.2, 13])
    rows = [SWEEP, *([str(share), *[""] * 5] for share in rates)]
    _part(page, "A learning-rate sweep to fill in", rows, [4.2, 2.8, 2.8, 2.8, 2.8, 2.8])
    page.add_page_break()
    page.add_heading("Your votes on the lecture's claims", 1)
    page.add_paragraph(
        "Mark one box in each row before you see a result: yes, no, or “cannot be told”."
    )
    rows = [["claim", "yes", "no", "?", "verdict"]]
    rows += [[claim["claim"], "", "", "", ""] for claim in claims]
    _table(page, rows, [11.6, 1.2, 1.2, 1.2, 3])
    return _bytes(page)


def _blank():
    """An empty A4 document in our font, without the template's dates."""
    page = Document()
    section = page.sections[0]
    section.page_width, section.page_height = A4
    section.left_margin = section.right_margin = MARGIN
    section.top_margin = section.bottom_margin = MARGIN
    normal = page.styles["Normal"]
    normal.font.name, normal.font.size = FONT, Pt(10.5)
    normal.paragraph_format.space_after = Pt(2)
    for level in (1, 2):
        heading = page.styles[f"Heading {level}"].paragraph_format
        heading.space_before, heading.space_after = Pt(6), Pt(2)
    about = page.core_properties
    about.title, about.author, about.last_modified_by = "Handout", "kdlib", "kdlib"
    about.created = about.modified = MADE
    return page


def _part(page, title: str, rows: list, widths: list) -> None:
    page.add_heading(title, 2)
    _table(page, rows, widths)


def _table(page, rows: list, widths: list) -> None:
    """A table with lines; widths in centimetres."""
    table = page.add_table(len(rows), len(widths), style="Table Grid")
    table.alignment = WD_TABLE_ALIGNMENT.CENTER
    table.autofit = False
    for column, width in zip(table.columns, widths):
        column.width = Cm(width)
    for cells, row in zip(table.rows, rows):
        for cell, text, width in zip(cells.cells, row, widths):
            cell.text, cell.width = str(text), Cm(width)


def _bytes(page) -> bytes:
    held = io.BytesIO()
    page.save(held)
    return same_every_time(held)
