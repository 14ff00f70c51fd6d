"""The evening before: does the deck open in the lecture room, and do the live cells run there?

    python -m kdlib doctor --lecture

Everything that `doctor` looks at, then what only a lecture needs: the deck and its records, the
minutes of the live notebooks by our records, JupyterLab, fonts, a browser.
"""

import importlib.util
import shutil
import webbrowser

from .. import paths
from ..course.notebooks import notebook_path
from ..course.stored import Missing, Stored
from ..figures import deck, drawing
from ..figures.deck_numbers import Records
from ..figures.gallery import UNFIT
from ..figures.slides import FIGURES
from . import doctor
from .doctor import Finding

LIVE = ("00", "01", "02", "03", "04", "10")  # the notebooks that the timetable runs live
SLOW_MINUTES = 5  # a live notebook that takes longer does not fit its part of the timetable
# What draws the .pptx's letters as they were laid out: one of these is enough.
SLIDE_FONTS = ("Arial", "Liberation Sans", "Helvetica", "Arimo")
BROWSERS = ("google-chrome", "chromium", "chromium-browser", "firefox", "microsoft-edge", "safari")
NEEDED_LIVE = ("data/mini_nli", "data/teachers/mini_nli")


def check() -> list[Finding]:
    """All findings of the lecture room, in the order in which they should be mended."""
    findings = []
    kept = Records(Stored("laptop"))  # the claims are judged once for all checks
    for name, look in CHECKS.items():
        try:
            findings += look(name, kept)
        except (ValueError, OSError) as error:
            findings.append(Finding(name, False, str(error), "mend it, then ask again", True))
    return findings


def built(name: str, kept: Records) -> list[Finding]:
    """Do the deck's files lie there, with the slides that deck.yaml and the records give now?"""
    described = deck.read()
    names = [f"{session['file']}.html" for session in described["sessions"]]
    names += [f"{session['file']}.pptx" for session in described["sessions"]]
    names += ["handout.html", "handout.docx", "quiz.html"]
    lost = [file for file in names if not (deck.FOLDER / file).is_file()]
    if lost:
        found = f"missing in {deck.FOLDER}: {', '.join(lost)}"
        return [Finding(name, False, found, "python -m kdlib deck", True)]
    old = [session["file"] for session in described["sessions"] if _is_old(session, kept)]
    if old:
        found = f"older than deck.yaml or the records: {', '.join(old)}"
        return [Finding(name, False, found, "python -m kdlib deck")]
    return [
        Finding(name, True, f"{len(names)} files in {deck.FOLDER}; open the .html or the .pptx")
    ]


def _is_old(session: dict, kept: Records) -> bool:
    """A title that deck.yaml and the records give now does not stand in the file."""
    from html import unescape

    text = unescape((deck.FOLDER / f"{session['file']}.html").read_text(encoding="utf8"))
    now, _ = deck.slides(session, kept)
    return any(slide.title not in text for slide in now)


def records(name: str, kept: Records) -> list[Finding]:
    """Is every record there that a figure or a number of the deck reads?"""
    lost = []
    for session in deck.read()["sessions"]:
        made, problems = deck.slides(session, kept)
        lost += [why for _, why in problems]
        for slide in made:
            if slide.figure:
                lost += _lost_table(slide.figure, kept.stored)
    if lost:
        fix = "git checkout -- data brings the shipped records back; the slides say more"
        return [Finding(name, False, "; ".join(dict.fromkeys(lost)), fix)]
    return [Finding(name, True, "all that the slides read")]


def _lost_table(figure: str, stored: Stored) -> list[str]:
    try:
        drawing.table_of(FIGURES[figure], stored)
    except Missing as why:
        return [str(why)]
    except UNFIT as why:
        return [f"{figure}: a record is damaged ({why!r})"]
    return []


def live(name: str, kept: Records) -> list[Finding]:
    """Each live notebook's minutes by our records, and what its cells read."""
    lost = [place for place in NEEDED_LIVE if not (paths.ROOT / place).exists()]
    if lost:
        found = f"the live cells need {', '.join(lost)}"
        return [Finding(name, False, found, "git checkout -- data", True)]
    findings = []
    for number in LIVE:
        notebook = notebook_path(number).stem
        try:
            minutes = kept.minutes(notebook)
        except Missing as why:
            # notebook 10 keeps no reference run: it only reads the others' records
            reads = number == "10"
            found = "half a minute; it trains nothing" if reads else f"minutes unknown: {why}"
            fix = "" if reads else "git checkout -- data"
            findings.append(Finding(f"{name} {number}", reads, found, fix))
            continue
        fix = "" if minutes <= SLOW_MINUTES else "start it before the session, or show the records"
        found = f"{minutes:.1f} minutes on one core, by our records"
        findings.append(Finding(f"{name} {number}", minutes <= SLOW_MINUTES, found, fix))
    return findings


def jupyter(name: str, kept: Records) -> list[Finding]:
    """What opens the live notebooks, and moves the slider."""
    lost = [need for need in ("jupyterlab", "ipywidgets") if not importlib.util.find_spec(need)]
    if lost:
        return [Finding(name, False, f"missing: {', '.join(lost)}", doctor.INSTALL, True)]
    return [Finding(name, True, "JupyterLab and ipywidgets are there")]


def fonts(name: str, kept: Records) -> list[Finding]:
    """The figures' font, and one for the .pptx's text."""
    from matplotlib import font_manager

    deck.check_font()
    known = {font.name for font in font_manager.fontManager.ttflist}
    here = [font for font in SLIDE_FONTS if font in known]
    if not here:
        found = f"none of {', '.join(SLIDE_FONTS)}: the .pptx will have other line breaks"
        fix = "Linux: apt install fonts-liberation; or show the .html, which fits with any font"
        return [Finding(name, False, found, fix)]
    return [Finding(name, True, f"{deck.FONT} for figures, {here[0]} for slides")]


def browser(name: str, kept: Records) -> list[Finding]:
    """Something that opens the .html and JupyterLab."""
    found = next((one for one in BROWSERS if shutil.which(one)), "")
    if not found:
        try:
            found = type(webbrowser.get()).__name__
        except webbrowser.Error:
            fix = "install Firefox or Chromium, or show the .pptx"
            return [Finding(name, False, "none was found", fix)]
    return [Finding(name, True, found)]


CHECKS = {
    "deck": built,
    "records": records,
    "live notebook": live,
    "JupyterLab": jupyter,
    "fonts": fonts,
    "browser": browser,
}


def main() -> int:
    """Print doctor's findings and the room's; 1 if something stops the lecture, else 0."""
    stopped = doctor.tell([*doctor.check(), *check()])
    if stopped:
        print(f"\nbefore the lecture, mend: {', '.join(stopped)}")
        return 1
    print("\nnothing here stops the lecture; open each deck once, and press F, S and B")
    return 0
