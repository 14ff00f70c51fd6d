"""The deck: deck.yaml and the records become two lectures, a handout and a quiz. No torch.

    python -m kdlib deck

deck.yaml holds the order, the titles, the guesses and the notes. A title with numbers in braces
takes them from the functions of `deck_numbers`; where the records no longer bear it out, the slide
takes its `neutral` title instead. `read` checks the file, `slides` fills it, `write` draws the
figures and writes the files.
"""

import re
import string
from pathlib import Path

import matplotlib.pyplot as plt
import yaml

from ..course.findings import load as load_claims
from ..course.stored import Missing, Stored
from ..paths import ROOT, did_you_mean, write_text
from . import drawing
from .deck_numbers import NUMBERS, Records
from .deck_pages import page
from .deck_slide import KINDS, Slide
from .gallery import UNFIT, corpus, source
from .slides import FIGURES

FILE = Path(__file__).with_name("deck.yaml")
FOLDER = ROOT / "figures" / "deck"
FONT = "DejaVu Sans"  # matplotlib brings it along; every figure is laid out for it

INSTALL = "pip install -c constraints.txt -e '.[slides]'"
KEYS = {
    "deck": {"sessions", "quiz", "handout"},
    "session": {"file", "title", "parts"},
    "part": {"part", "from", "to", "slides"},
    "slide": {*KINDS, "title", "neutral", "numbers", "choices", "tall", "source", "notes"},
    "notes": {"minutes", "say", "ask", "wrong", "fallback"},
    "question": {"ask", "choices", "answer", "why", "numbers"},
    "handout": {"rates", "symbols", "mistakes"},
}
OPTIONAL = {"numbers"}
CLAIMS = {claim["id"]: claim["claim"] for claim in load_claims()}
KICKERS = {"guess": "Guess first", "live": "Live", "vote": "Vote first"}
NOTE_HEADS = {
    "say": "Say",
    "ask": "Ask",
    "wrong": "The usual wrong answer",
    "fallback": "If the live cell fails",
}


# -- reading deck.yaml -----------------------------------------------------------------------------


def read(file: Path = FILE) -> dict:
    """deck.yaml, checked. ValueError names the slide, the wrong word and the nearest known one."""
    try:
        deck = yaml.safe_load(Path(file).read_text(encoding="utf8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    _known(deck, "deck", f"{file}")
    for session in deck["sessions"]:
        _known(session, "session", f"session {session.get('title')!r}")
        minute = 0
        for part in session["parts"]:
            where = f"part {part.get('part')!r}"
            _known(part, "part", where)
            for slide in part["slides"]:
                _check_slide(slide, where)
            _check_times(part, minute, where)
            minute = part["to"]
    for question in deck["quiz"]:
        _known(question, "question", f"question {question.get('ask')!r}")
        _check_numbers(question, f"question {question.get('ask')!r}")
    _known(deck["handout"], "handout", "handout")
    return deck


def _known(item, kind: str, where: str) -> None:
    """ValueError unless every key of an item is one of its kind's, and none is missing."""
    if not isinstance(item, dict):
        raise ValueError(f"deck.yaml, {where}: a {kind} is a list of names with values")
    for key in item:
        if key not in KEYS[kind]:
            near = did_you_mean(str(key), KEYS[kind])
            raise ValueError(f"deck.yaml, {where}: a {kind} has no {key!r}{near}")
    for key in KEYS[kind] - OPTIONAL if kind not in ("slide", "notes") else ():
        if key not in item:
            raise ValueError(f"deck.yaml, {where}: this {kind} lacks {key!r}")


def _check_times(part: dict, minute: float, where: str) -> None:
    """A part begins where the one before it ended, and its slides fill it."""
    if part["from"] != minute:
        raise ValueError(f"deck.yaml, {where}: begins at {part['from']}, not at {minute}")
    total = sum(slide.get("notes", {}).get("minutes", 0) for slide in part["slides"])
    if total != part["to"] - part["from"]:
        raise ValueError(
            f"deck.yaml, {where}: its slides take {total} minutes, "
            f"the part has {part['to'] - part['from']}"
        )


def _check_slide(slide: dict, where: str) -> None:
    """One kind, a title, known figure, known numbers, a neutral title where numbers can fail."""
    where = f"{where}, slide {slide.get('title')!r}"
    _known(slide, "slide", where)
    _known(slide.get("notes", {}), "notes", where)
    kinds = [kind for kind in KINDS if kind in slide]
    if len(kinds) != 1:
        raise ValueError(f"deck.yaml, {where}: needs one of {', '.join(KINDS)}")
    if not slide.get("title") and kinds != ["figure"]:
        raise ValueError(f"deck.yaml, {where}: needs a title; only a figure has its own message")
    name = slide.get("figure")
    if name and name not in FIGURES:
        raise ValueError(
            f"deck.yaml, {where}: there is no figure {name!r}{did_you_mean(name, FIGURES)}"
        )
    for claim in slide.get("vote", []):
        if claim not in CLAIMS:
            near = did_you_mean(claim, CLAIMS)
            raise ValueError(f"deck.yaml, {where}: there is no claim {claim!r}{near}")
    if placeholders(slide.get("title", "")) and not slide.get("neutral"):
        raise ValueError(f"deck.yaml, {where}: a title with numbers needs a neutral one beside it")
    _check_numbers(slide, where)


def _check_numbers(item: dict, where: str) -> None:
    for name in _listed(item.get("numbers")):
        if name not in NUMBERS:
            near = did_you_mean(name, NUMBERS)
            raise ValueError(f"deck.yaml, {where}: there are no numbers {name!r}{near}")


def _listed(value) -> list:
    """One or several: always as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def placeholders(text: str) -> list[str]:
    """The names in braces."""
    return [name for _, name, _, _ in string.Formatter().parse(text) if name]


# -- numbers in texts ------------------------------------------------------------------------------


class Numbers:
    """The values of one slide. lost: why some could not be had; then texts that need them go."""

    def __init__(self, names: list[str], records: Records):
        self.values, self.lost, self.refused = {}, [], False
        for name in names:
            try:
                found = NUMBERS[name](records)
            except Missing as why:
                self.lost.append(str(why))
                continue
            except UNFIT as why:
                self.lost.append(f"the numbers {name} cannot be computed: {why!r}")
                continue
            if found is None:
                self.refused = True
            self.values |= found or {}

    def fill(self, text: str, where: str) -> str:
        """The text with its numbers; "" where one is not to be had. ValueError for a wrong name."""
        unknown = [name for name in placeholders(text) if name not in self.values]
        if unknown and (self.lost or self.refused):
            return ""
        if unknown:
            near = did_you_mean(unknown[0], self.values)
            raise ValueError(f"deck.yaml, {where}: no number is called {unknown[0]!r}{near}")
        return typeset(text.format(**self.values))


def typeset(text: str) -> str:
    """A minus instead of a hyphen, and no line break inside "T = 4", "30 %" and "macro-F1"."""
    text = re.sub(r"(?<![\w-])-(?=\d)", "−", text).replace("macro-F1", "macro\u2011F1")
    text = re.sub(r"(\d) (%|GB)", "\\1\u00a0\\2", text).replace("ln 3", "ln\u00a03")
    return re.sub(r"\b(\w|alpha) ([=≈]) (\S)", "\\1\u00a0\\2\u00a0\\3", text)


# -- filling ---------------------------------------------------------------------------------------


def slides(session: dict, records: Records) -> tuple[list[Slide], list[tuple[str, str]]]:
    """(the slides of a session without pictures, what was missing: which slide, and why)."""
    made, problems = [], []
    for part in session["parts"]:
        minute = part["from"]
        for entry in part["slides"]:
            slide, lost = _filled(entry, part["part"], minute, records)
            made.append(slide)
            minute += slide.minutes
            problems += [(slide.title or slide.figure, why) for why in lost]
    return made, problems


def _filled(entry: dict, part: str, minute: float, records: Records) -> tuple[Slide, list[str]]:
    """(one slide with its numbers, what was missing)."""
    name = entry.get("title") or entry["figure"]
    where = f"slide {name!r}"
    kind = next(kind for kind in KINDS if kind in entry)
    numbers = Numbers(_listed(entry.get("numbers")), records)
    title = numbers.fill(entry.get("title", ""), where) or entry.get("neutral", "")
    texts = {
        "figure": [],
        "guess": entry.get("choices", []),
        "vote": [CLAIMS[claim] for claim in entry.get("vote", [])],
    }.get(kind, entry[kind])
    notes = entry.get("notes", {})
    slide = Slide(
        kind=kind,
        title=title,
        kicker=_kicker(kind, entry),
        part=part,
        starts=minute,
        minutes=notes.get("minutes", 0),
        body=[line for text in texts if (line := numbers.fill(text, where))],
        lead=numbers.fill(entry.get("guess", ""), where),
        figure=entry.get("figure", ""),
        tall=entry.get("tall", False),
        source=entry.get("source", ""),
    )
    if slide.minutes:
        ends = minute + slide.minutes
        slide.notes.append(("Minutes", f"{slide.minutes:g} (from {minute:g} to {ends:g})"))
    for key, head in NOTE_HEADS.items():
        said = [numbers.fill(text, where) for text in _listed(notes.get(key))]
        if text := " ".join(filter(None, said)):
            slide.notes.append((head, text))
    return slide, numbers.lost


def _kicker(kind: str, entry: dict) -> str:
    """The small line above the title: what the audience has to do now."""
    if kind == "figure":
        return FIGURES[entry["figure"]].title
    return KICKERS.get(kind, "")


# -- pictures --------------------------------------------------------------------------------------


def add_picture(slide: Slide, stored: Stored) -> str:
    """Draw the figure of a slide into it. Returns why that cannot be done, else ""."""
    draw = FIGURES[slide.figure]
    stored.used, stored.incomplete = [], []
    open_before = set(plt.get_fignums())
    try:
        table = drawing.table_of(draw, stored)
        fig = draw(table)
    except (Missing, *UNFIT) as why:
        for begun in set(plt.get_fignums()) - open_before:
            plt.close(begun)
        told = str(why) if isinstance(why, Missing) else f"a record cannot be drawn: {why!r}"
        slide.missing = f"{told}. {how_to_make(told)}"
        slide.title = slide.title or draw.title
        return told
    rows = corpus(slide.figure, stored.profile)
    said = drawing.take_message(fig)
    drawing.on_slide(fig, canvas=drawing.CANVAS if slide.tall else drawing.UNDER_A_TITLE)
    slide.picture = drawing.small_png(fig)
    plt.close(fig)
    slide.alt = draw.alt
    behind = slide.source or source(draw, stored.used)
    slide.source = " · ".join(filter(None, [rows, behind]))
    slide.title = slide.title or typeset(said) or draw.title
    if stored.incomplete:
        return f"drawn in part: {'; '.join(stored.incomplete)}"
    return ""


def how_to_make(told: str) -> str:
    """What brings a lost record back; told: what was said of it, with its name."""
    back = "Bring the shipped one back: git checkout -- data."
    record = re.search(r"data/results/(\d\d)_\w+/([a-z]+)(_\w+)?\.json", told)
    if not record:
        return back
    number, profile, more = record.groups()
    name = f" --name {profile}{more}" if more else ""
    return (
        f"{back} Or make it: python -m kdlib run {number} --profile {profile}, "
        f"then python -m kdlib store {number} {profile}{name}."
    )


def report(problems: list[tuple[str, str]]) -> list[str]:
    """A line a cause, however many slides it costs: (which slide, why) of each problem."""
    slides_of = {}
    for name, why in problems:
        names = slides_of.setdefault(why, [])
        if name not in names:
            names.append(name)
    lines = []
    for why, names in slides_of.items():
        advice = f". {how_to_make(why)}" if "data/" in why else ""
        lines.append(f"{why}{advice} It costs: {'; '.join(filter(None, names))}")
    return lines


def check_font() -> None:
    """OSError where the font is missing that the figures are laid out for."""
    from matplotlib import font_manager

    try:
        font_manager.findfont(FONT, fallback_to_default=False)
    except ValueError:
        raise OSError(
            f"the font {FONT} is missing, which matplotlib brings along: "
            "pip install --force-reinstall matplotlib"
        ) from None


# -- writing ---------------------------------------------------------------------------------------


def write(out: Path = FOLDER, *, file: Path = FILE, profile: str = "laptop") -> list[str]:
    """All files of the deck into `out`. Returns what was missing, a line a cause.

    A figure whose record is missing has a slide that says so; all others are built. Raises
    ValueError for a mistake in deck.yaml, OSError for a folder that cannot be written and for a
    missing font.
    """
    deck = read(file)
    check_font()
    out = _writable(out)
    drawing.style("slides")
    stored = Stored(profile)
    records = Records(stored)
    problems = []
    for session in deck["sessions"]:
        made, lost = slides(session, records)
        problems += lost
        for slide in made:
            if slide.figure and (why := add_picture(slide, stored)):
                problems.append((slide.title, why))
        problems += _write_session(session, made, out)
    drawing.style()
    questions, lost = quiz(deck, records)
    problems += lost
    write_text(out / "quiz.html", page("quiz.html", questions=questions))
    problems += _write_handout(deck["handout"], records.judged[1].to_dict("records"), out)
    return report(problems)


def _write_session(session: dict, made: list[Slide], out: Path) -> list[tuple[str, str]]:
    """NAME.html and NAME.pptx; what was missing."""
    name = session["file"]
    html = page("deck.html", title=session["title"], slides=made)
    write_text(out / f"{name}.html", html)
    try:
        from .deck_pptx import presentation
    except ImportError:
        return [(f"{name}.pptx", f"python-pptx is missing: {INSTALL}.")]
    (out / f"{name}.pptx").write_bytes(presentation(session["title"], made))
    return []


def _write_handout(contents: dict, claims: list[dict], out: Path) -> list[tuple[str, str]]:
    """handout.html and handout.docx; what was missing."""
    write_text(out / "handout.html", page("handout.html", claims=claims, **contents))
    try:
        from .deck_docx import handout
    except ImportError:
        return [("handout.docx", f"python-docx is missing: {INSTALL}.")]
    (out / "handout.docx").write_bytes(handout(claims=claims, **contents))
    return []


def _writable(folder: Path) -> Path:
    """The folder, made where it is missing. OSError, one clear line, where nothing can be written."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / ".trial"
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}); name another folder with --out"
        ) from None
    return folder


def quiz(deck: dict, records: Records) -> tuple[list[dict], list[tuple[str, str]]]:
    """(the questions with their numbers, which were left out and why). One without its numbers is left out."""
    questions, problems = [], []
    for entry in deck["quiz"]:
        where = f"question {entry['ask']!r}"
        numbers = Numbers(_listed(entry.get("numbers")), records)
        problems += [("a question of the quiz", why) for why in numbers.lost]
        ask, why = (numbers.fill(entry[key], where) for key in ("ask", "why"))
        choices = [numbers.fill(choice, where) for choice in entry["choices"]]
        if all([ask, why, *choices]):
            right = choices[entry["answer"] - 1]
            questions.append(entry | {"ask": ask, "why": why, "choices": choices, "right": right})
    return questions, problems
