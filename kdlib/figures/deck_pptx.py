"""PowerPoint files: a native title, a picture with its alt text, speaker notes; equal bytes for
equal slides.
"""

import datetime
import io
import zipfile

from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Inches, Pt

from .deck_slide import Slide

WIDTH, HEIGHT = Inches(13 + 1 / 3), Inches(7.5)
MARGIN = Inches(0.45)
KICKER_TOP, TITLE_TOP, BODY_TOP, FOOT_TOP = (Inches(inch) for inch in (0.18, 0.48, 1.42, 7.08))
FONT = "Arial"  # on Windows and macOS; Linux has Liberation Sans, of the same widths
# Of the files in the archive, and of the document: the same in every build.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
MADE = datetime.datetime(2026, 1, 1)
GROUNDS = {"guess": "FFF6DF", "live": "E9F7F1", "cover": "0B2F4F"}
KICKERS = {"guess": "8A5200", "live": "00654A", "cover": "CFE3F5"}
INK, BLUE, GREY = "111111", "0058A3", "555555"
COVER_ROOM, COVER_LIST = (Inches(1.4), Inches(1.6)), Inches(3.4)
TITLE_ONLY, TITLE_AND_TEXT = 5, 1  # the layouts of python-pptx's own template
MANY = 7  # lines of text: beyond, smaller letters


def presentation(title: str, slides: list[Slide]) -> bytes:
    """A .pptx file of `Slide`s, as bytes."""
    deck = Presentation()
    deck.slide_width, deck.slide_height = WIDTH, HEIGHT
    _widen(deck)
    for number, slide in enumerate(slides, 1):
        _add(deck, slide, number)
    about = deck.core_properties
    about.title, about.author, about.last_modified_by = title, "kdlib", "kdlib"
    about.created = about.modified = MADE
    about.revision, about.language = 1, "en"
    held = io.BytesIO()
    deck.save(held)
    return same_every_time(held)


def single(name: str, title: str, picture: bytes, alt: str, source: str) -> bytes:
    """A .pptx file with one figure: `kdlib figures --format pptx`."""
    slide = Slide("figure", title, "", "", 0, 0, figure=name, alt=alt, source=source)
    slide.picture = picture
    return presentation(title, [slide])


def _widen(deck) -> None:
    """The template is 4:3: its master and layouts become 16:9, with our title and our font."""
    master = deck.slide_master
    for owner in (master, *deck.slide_layouts):
        for shape in owner.placeholders:
            if shape.placeholder_format.type is None or shape.placeholder_format.idx > 1:
                continue
            is_title = shape.placeholder_format.idx == 0
            shape.left, shape.width = MARGIN, WIDTH - 2 * MARGIN
            shape.top = TITLE_TOP if is_title else BODY_TOP
            shape.height = BODY_TOP - TITLE_TOP if is_title else FOOT_TOP - BODY_TOP
    style = master.element.find(qn("p:txStyles")).find(qn("p:titleStyle"))
    level = style.find(qn("a:lvl1pPr"))
    level.set("algn", "l")
    letters = level.find(qn("a:defRPr"))
    letters.set("sz", "2600")
    letters.set("b", "1")
    for relation in master.part.rels.values():
        if relation.reltype.endswith("/theme"):
            theme = relation.target_part
            theme._blob = theme.blob.replace(b"Calibri", FONT.encode())


def _add(deck, slide, number: int) -> None:
    """One slide at the end of the deck."""
    as_list = bool(slide.body) and not slide.missing
    layout = deck.slide_layouts[TITLE_AND_TEXT if as_list else TITLE_ONLY]
    made = deck.slides.add_slide(layout)
    made.shapes.title.text = slide.title
    made.shapes.title.text_frame.vertical_anchor = MSO_ANCHOR.TOP
    _ground(made, slide)
    if slide.kicker:
        colour = KICKERS.get(slide.kind, BLUE)
        _words(made, "Kicker", slide.kicker, (MARGIN, KICKER_TOP), 14, colour, bold=True)
    if slide.missing:
        told = f"This figure could not be drawn. {slide.missing}"
        _words(made, "Missing", told, (MARGIN, Inches(2)), 20, INK, height=Inches(4))
    elif slide.picture:
        _picture(made, slide)
    elif as_list:
        _lines(made, slide)
    colour = KICKERS["cover"] if slide.kind == "cover" else GREY
    width = Inches(9.6)
    _words(made, "Source", slide.source, (MARGIN, FOOT_TOP), 11, colour, width=width)
    place = (MARGIN + width, FOOT_TOP)
    where = f"{slide.part} · {number}" if slide.part else ""
    right = _words(made, "Page", where, place, 11, colour, width=WIDTH - 2 * MARGIN - width)
    right.alignment = PP_ALIGN.RIGHT
    if slide.notes:
        made.notes_slide.notes_text_frame.text = slide.notes_text


def _ground(made, slide) -> None:
    """The colour that tells a guess and a live slide from a result."""
    if slide.kind not in GROUNDS:
        return
    fill = made.background.fill
    fill.solid()
    fill.fore_color.rgb = RGBColor.from_string(GROUNDS[slide.kind])
    if slide.kind == "cover":
        title = made.shapes.title
        title.left, title.width, title.top, title.height = MARGIN, WIDTH - 2 * MARGIN, *COVER_ROOM
        title.text_frame.paragraphs[0].font.size = Pt(40)
        title.text_frame.paragraphs[0].font.color.rgb = RGBColor(255, 255, 255)


def _words(made, name, text, place, points, colour, *, bold=False, width=None, height=None):
    """A text box that keeps its size; returns its paragraph."""
    left, top = place
    box = made.shapes.add_textbox(left, top, width or WIDTH - 2 * MARGIN, height or Inches(0.34))
    box.name = name
    frame = box.text_frame
    frame.word_wrap = True
    paragraph = frame.paragraphs[0]
    paragraph.text = text
    paragraph.font.size, paragraph.font.bold = Pt(points), bold
    paragraph.font.color.rgb = RGBColor.from_string(colour)
    return paragraph


def _picture(made, slide) -> None:
    """As large as the room under the title allows, in the middle."""
    room_width, room_height = WIDTH - 2 * MARGIN, FOOT_TOP - BODY_TOP
    picture = made.shapes.add_picture(io.BytesIO(slide.picture), MARGIN, BODY_TOP)
    scale = min(room_width / picture.width, room_height / picture.height)
    picture.width, picture.height = int(picture.width * scale), int(picture.height * scale)
    picture.left = int((WIDTH - picture.width) / 2)
    picture.top = BODY_TOP + int((room_height - picture.height) / 2)
    picture.name = slide.figure
    picture._element.nvPicPr.cNvPr.set("descr", slide.alt)


def _lines(made, slide) -> None:
    """The slide's lines as the layout's own list; above it the question of a guess."""
    shape = made.placeholders[1]
    top = COVER_LIST if slide.kind == "cover" else BODY_TOP + Inches(0.25)
    if slide.lead:
        place = (MARGIN, BODY_TOP + Inches(0.1))
        _words(made, "Question", slide.lead, place, 26, INK, height=Inches(1))
        top = BODY_TOP + Inches(1.2)
    shape.left, shape.top = MARGIN, top
    shape.width, shape.height = WIDTH - 2 * MARGIN, FOOT_TOP - top
    frame = shape.text_frame
    frame.text = "\n".join(slide.body)
    many = len(slide.body) > MANY
    for paragraph in frame.paragraphs:
        paragraph.font.size = Pt(20) if many else Pt(26)
        paragraph.space_after = Pt(8) if many else Pt(12)
        if slide.kind == "cover":
            paragraph.font.color.rgb = RGBColor(255, 255, 255)


def same_every_time(held: io.BytesIO) -> bytes:
    """The same archive with fixed times: python-pptx writes the clock's."""
    fixed = io.BytesIO()
    with zipfile.ZipFile(held) as old, zipfile.ZipFile(fixed, "w") as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            new.writestr(entry, old.read(name), compresslevel=9)
    return fixed.getvalue()
