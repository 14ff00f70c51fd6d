"""The deck: every slide is there, says its message and its source, and a lost record costs one slide."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from kdlib import paths
from kdlib.__main__ import main
from kdlib.course import stored as stored_records
from kdlib.figures import deck, deck_numbers, drawing, gallery
from kdlib.figures.slides import FIGURES
from kdlib.tools import lecture

docx = pytest.importorskip("docx", reason="the extra `slides` is not installed")
pptx = pytest.importorskip("pptx", reason="the extra `slides` is not installed")
ROOT = Path(__file__).parent.parent
SESSIONS = [session["file"] for session in deck.read()["sessions"]]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole deck, as a shell builds it, and without torch."""
    out = tmp_path_factory.mktemp("deck")
    code = (
        "import sys; from kdlib.__main__ import main; "
        f"code = main(['deck', '--out', {str(out)!r}]); "
        "sys.exit(code or ('torch' in sys.modules and 99))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def records():
    """The course's own records; the claims are judged once."""
    return deck_numbers.Records(deck.Stored("laptop"))


def slides_of(file: Path) -> list[dict]:
    """What a .pptx says: title, notes, alt text, all words."""
    found = []
    for slide in pptx.Presentation(file).slides:
        pictures = [shape for shape in slide.shapes if shape.shape_type == 13]
        words = [shape.text_frame.text for shape in slide.shapes if shape.has_text_frame]
        found.append(
            {
                "title": slide.shapes.title.text,
                "notes": slide.notes_slide.notes_text_frame.text if slide.has_notes_slide else "",
                "alt": [p._element.nvPicPr.cNvPr.get("descr") for p in pictures],
                "words": " ".join(words),
                "shapes": list(slide.shapes),
            }
        )
    return found


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.slides, self.notes, self.images, self.links = 0, 0, [], []

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.slides += tag == "section" and "slide" in of.get("class", "")
        self.notes += tag == "dl"
        self.images += [of] if tag == "img" else []
        self.links += (
            [of.get("href", "") or of.get("src", "")] if tag in ("link", "script", "img") else []
        )


# -- what lies in deck.yaml ------------------------------------------------------------------------


@pytest.mark.parametrize("session", deck.read()["sessions"], ids=SESSIONS)
def test_a_session_fills_its_hundred_minutes_and_every_slide_has_notes(session, records):
    made, problems = deck.slides(session, records)
    assert not problems and 20 <= len(made) <= 30
    assert made[-1].starts + made[-1].minutes == 100
    heads = [{head for head, _ in slide.notes} for slide in made]
    assert all({"Minutes", "Say"} <= found for found in heads)
    asked = [slide for slide in made if slide.part != "Break"]
    assert all("Ask" in dict(slide.notes) for slide in asked)
    live = [slide for slide in made if slide.kind == "live"]
    assert live and all("If the live cell fails" in dict(slide.notes) for slide in live)
    guesses = [slide for slide in made if slide.kind in ("guess", "vote")]
    assert len(guesses) >= 5
    assert all("{" not in slide.title + slide.notes_text for slide in made)


def test_the_parts_are_those_of_the_readme():
    table = re.findall(r"^\| (\d+)–(\d+) \|", (ROOT / "TEACHING.md").read_text("utf8"), re.M)
    times = [(int(start), int(end)) for start, end in table]
    for session in deck.read()["sessions"]:
        assert [(part["from"], part["to"]) for part in session["parts"]] == times


# -- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SESSIONS)
def test_powerpoint_has_native_titles_alt_texts_and_notes(built, name):
    found = slides_of(built / f"{name}.pptx")
    shown = pptx.Presentation(built / f"{name}.pptx")
    assert abs(shown.slide_width / shown.slide_height - 16 / 9) < 0.01
    for slide in found:
        assert slide["title"] and "Minutes:" in slide["notes"], slide["title"]
        assert all(len(alt.split()) >= 10 for alt in slide["alt"]), slide["title"]
        for shape in slide["shapes"]:
            assert shape.left >= 0 and shape.left + shape.width <= shown.slide_width + 1
            assert shape.top >= 0 and shape.top + shape.height <= shown.slide_height + 1
    pictures = sum(len(slide["alt"]) for slide in found)
    assert pictures >= 10 and shown.core_properties.title


@pytest.mark.parametrize("name", SESSIONS)
def test_the_page_needs_nothing_from_elsewhere(built, name):
    text = (built / f"{name}.html").read_text("utf8")
    page = Page()
    page.feed(text)
    assert page.slides == page.notes == len(slides_of(built / f"{name}.pptx"))
    assert all(link.startswith("data:") for link in page.links if link)
    assert "url(" not in text and "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert all(len(image["alt"].split()) >= 10 for image in page.images)
    for word in ("PageDown", "PageUp", "ArrowRight", "requestFullscreen", "@page", "break-after"):
        assert word in text


def test_the_handout_has_all_claims_to_vote_on(built, records):
    """As a page to print, and as a file to edit."""
    text = (built / "handout.html").read_text("utf8")
    written = docx.Document(built / "handout.docx")
    cells = {cell.text for table in written.tables for row in table.rows for cell in row.cells}
    for claim in records.judged[1]["claim"]:
        assert f"<td>{claim}</td>" in text and claim in cells


@pytest.mark.parametrize("name", SESSIONS)
def test_synthetic_rows_are_called_synthetic_on_the_slide(built, name):
    for slide in slides_of(built / f"{name}.pptx"):
        for shape in slide["shapes"]:
            if shape.name in FIGURES and "synthetic" in gallery.corpus(shape.name):
                assert "synthetic" in slide["words"], slide["title"]


def test_the_committed_deck_is_this_one(built):
    """Texts alone: pictures belong to the figures' own tests. Stale: python -m kdlib deck."""
    for name in SESSIONS:
        ours, theirs = (slides_of(folder / f"{name}.pptx") for folder in (built, deck.FOLDER))
        for one, other in zip(ours, theirs, strict=True):
            assert one["title"] == other["title"] and one["notes"] == other["notes"]
    for page in ("handout.html", "quiz.html"):
        assert (built / page).read_bytes() == (deck.FOLDER / page).read_bytes(), page
    size = sum(file.stat().st_size for file in deck.FOLDER.iterdir())
    assert size < 12e6


# -- a small deck: bytes, lost records, bad input --------------------------------------------------


def small(tmp_path, *slides, **more) -> Path:
    """A deck.yaml with these slides, a minute each."""
    slides = [{"notes": {"minutes": 1, "say": "Say it."}} | slide for slide in slides]
    part = {"part": "A part", "from": 0, "to": len(slides), "slides": slides}
    session = {"file": "one", "title": "A session", "parts": [part]}
    handout = {"symbols": [], "mistakes": [], "rates": []}
    file = tmp_path / "deck.yaml"
    file.write_text(
        yaml.safe_dump({"sessions": [session], "quiz": [], "handout": handout} | more), "utf8"
    )
    return file


RACE = {"figure": "race", "title": "Times {smaller:.1f}", "neutral": "A race", "numbers": "race"}
SOFT = {"figure": "softening", "title": "It softens"}


def test_equal_bytes_twice(tmp_path):
    file = small(tmp_path, RACE, SOFT, {"title": "Words", "points": ["one", "two"]})
    for folder in ("a", "b"):
        assert deck.write(tmp_path / folder, file=file) == []
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["handout.docx", "handout.html", "one.html", "one.pptx", "quiz.html"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    with zipfile.ZipFile(tmp_path / "a" / "one.pptx") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The stored results of three notebooks, in a folder where a test may break them."""
    data = tmp_path / "data"
    for name in ("00_start_here", "02_temperature", "04_distilbert_mnli"):
        shutil.copytree(paths.DATA / "results" / name, data / "results" / name)
    for module in (stored_records, paths):
        monkeypatch.setattr(module, "DATA", data)
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(deck, "ROOT", tmp_path)
    return data / "results"


@pytest.mark.parametrize("damage", ["lost", "cut off", "no table"])
def test_a_lost_record_costs_one_slide(tmp_path, copied, damage, monkeypatch, capsys):
    record = copied / "00_start_here" / "laptop.json"
    if damage == "lost":
        record.unlink()
    elif damage == "cut off":
        record.write_bytes(record.read_bytes()[:300])
    else:
        held = json.loads(record.read_text("utf8"))
        held["records"][0]["tables"] = {}
        record.write_text(json.dumps(held), "utf8")
    # the handout asks all records; that is not what this test looks at
    monkeypatch.setattr(deck_numbers.findings, "judge", lambda **_: (None, deck_numbers_claims()))
    file = small(tmp_path, RACE, SOFT)
    monkeypatch.setattr(deck, "FILE", file)
    monkeypatch.setattr(deck.write, "__kwdefaults__", {"file": file, "profile": "laptop"})
    assert main(["deck", "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "00_start_here" in told and "It costs: " in told
    if damage != "no table":
        assert "python -m kdlib run 00 --profile laptop" in told
    lost, whole = slides_of(tmp_path / "out" / "one.pptx")
    assert not lost["alt"] and "could not be drawn" in lost["words"]
    assert "python -m kdlib run 00" in lost["words"] and "git checkout" in lost["words"]
    assert lost["title"] == ("Times 1.9" if damage == "no table" else "A race")
    assert len(whole["alt"]) == 1
    assert "could not be drawn" in (tmp_path / "out" / "one.html").read_text("utf8")


def deck_numbers_claims():
    import pandas as pd

    return pd.DataFrame([{"id": "powerful", "claim": "A claim.", "verdict": "undecided"}])


def test_a_title_falls_back_when_the_data_no_longer_bear_it_out(tmp_path, monkeypatch, records):
    notes = {"minutes": 1, "say": ["Always.", "Only {smaller:.1f} times."]}
    file = small(tmp_path, RACE | {"notes": notes})
    session = deck.read(file)["sessions"][0]
    (slide,), _ = deck.slides(session, records)
    assert slide.title == "Times 1.9" and "1.9 times" in slide.notes_text
    monkeypatch.setitem(deck_numbers.NUMBERS, "race", lambda records: None)
    (slide,), problems = deck.slides(session, records)
    assert slide.title == "A race" and not problems
    assert "Always." in slide.notes_text and "times" not in slide.notes_text


@pytest.mark.parametrize("name", deck_numbers.NUMBERS)
def test_the_records_bear_out_every_number(name, records):
    found = deck_numbers.NUMBERS[name](records)
    assert found, f"{name} falls back: its slide shows its neutral title"
    assert deck_numbers.NUMBERS[name].__doc__


@pytest.mark.parametrize(
    "slide, told",
    [
        (SOFT | {"figure": "softning"}, "no figure 'softning'; did you mean 'softening'"),
        (RACE | {"numbers": "rice"}, "no numbers 'rice'; did you mean 'race'"),
        (SOFT | {"titel": "x"}, "no 'titel'; did you mean 'title'"),
        (SOFT | {"points": ["x"]}, "needs one of"),
        ({"points": ["x"]}, "needs a title"),
        ({"title": "Votes", "vote": ["powerfull"]}, "no claim 'powerfull'; did you mean"),
        ({k: v for k, v in RACE.items() if k != "neutral"}, "needs a neutral one"),
        (SOFT | {"notes": {"minuets": 1}}, "no 'minuets'; did you mean 'minutes'"),
        (SOFT | {"notes": {"minutes": 3}}, "its slides take 3 minutes, the part has 1"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path, slide, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        deck.read(small(tmp_path, slide))


def test_a_number_that_no_function_gives_is_refused(tmp_path):
    file = small(tmp_path, RACE | {"title": "Times {smaler:.1f}"})
    with pytest.raises(ValueError, match="no number is called 'smaler'; did you mean 'smaller'"):
        deck.write(tmp_path / "out", file=file)


def test_a_file_without_a_part_is_refused(tmp_path):
    with pytest.raises(ValueError, match="this handout lacks 'symbols'"):
        deck.read(small(tmp_path, SOFT, handout={"mistakes": [], "rates": []}))


def test_text_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "deck.yaml").write_text("sessions: [", "utf8")
    with pytest.raises(ValueError, match="is not YAML"):
        deck.read(tmp_path / "deck.yaml")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["deck", "--out", str(tmp_path / "file" / "deck")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "cannot be written" in told and "--out" in told


def test_a_missing_font_is_one_line(tmp_path, monkeypatch, capsys):
    from matplotlib import font_manager

    def nothing(*_, **__):
        raise ValueError("not found")

    monkeypatch.setattr(font_manager, "findfont", nothing)
    assert main(["deck", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "DejaVu Sans" in told and "pip install" in told


def test_without_python_pptx_the_pages_are_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kdlib.figures.deck_pptx", None)
    told = deck.write(tmp_path, file=small(tmp_path, SOFT))
    assert "python-pptx is missing" in told[0] and (tmp_path / "one.html").exists()


# -- single figures --------------------------------------------------------------------------------


def test_a_figure_as_a_slide_of_its_own(tmp_path):
    assert main(["figures", "02", "--format", "pptx", "--out", str(tmp_path)]) == 0
    (slide,) = slides_of(tmp_path / "why_t_squared.pptx")
    assert slide["title"].startswith("Without T² the soft loss is 27 times weaker")
    assert slide["alt"] == [FIGURES["why_t_squared"].alt] and "synthetic" in slide["words"]


def test_a_message_leaves_the_picture_for_the_title():
    drawing.style("slides")
    draw = FIGURES["worked_row"]
    fig = draw(drawing.table_of(draw, deck.Stored("laptop")))
    said = drawing.take_message(fig)
    assert said.startswith("By hand: L = 0.5 · 0.57") and drawing.take_message(fig) == ""
    drawing.plt.close(fig)
    drawing.style()


# -- the room's machine ----------------------------------------------------------------------------


def test_the_room_is_checked(capsys):
    assert main(["doctor", "--lecture"]) == 0, "something here would stop a lecture"
    said = capsys.readouterr().out
    for name in ("deck", "records", "live notebook 00", "JupyterLab", "fonts", "browser", "Python"):
        assert f"  {name}: " in said


def test_what_is_missing_in_the_room_is_said(tmp_path, monkeypatch, records):
    monkeypatch.setattr(deck, "FOLDER", tmp_path)
    (finding,) = lecture.built("deck", records)
    assert finding.stops and finding.fix == "python -m kdlib deck"
    monkeypatch.setattr(lecture.shutil, "which", lambda name: None)

    def none():
        raise lecture.webbrowser.Error("none")

    monkeypatch.setattr(lecture.webbrowser, "get", none)
    (finding,) = lecture.browser("browser", records)
    assert not finding.ok and "Firefox" in finding.fix
    monkeypatch.setattr(lecture, "SLIDE_FONTS", ("No such font",))
    (finding,) = lecture.fonts("fonts", records)
    assert not finding.ok and "fonts-liberation" in finding.fix


def test_an_old_deck_and_a_lost_record_are_seen_the_evening_before(tmp_path, monkeypatch, copied):
    kept = deck_numbers.Records(deck.Stored("laptop"))
    (finding,) = lecture.records("records", kept)
    assert not finding.ok and "01_soft_targets" in finding.found
    for file in deck.FOLDER.iterdir():
        text = file.read_bytes()
        (tmp_path / "old").mkdir(exist_ok=True)
        (tmp_path / "old" / file.name).write_bytes(
            text.replace(b"<h2>", b"<h2>Old: ").replace(b"Without", b"With")
        )
    monkeypatch.setattr(deck, "FOLDER", tmp_path / "old")
    (finding,) = lecture.built("deck", kept)
    assert not finding.ok and "older than" in finding.found


# -- tried for real --------------------------------------------------------------------------------


def pdf_pages(file: Path) -> int:
    return len(re.findall(rb"/Type\s*/Page[^s]", file.read_bytes()))


@pytest.mark.slow
@pytest.mark.parametrize("name", SESSIONS)
def test_impress_opens_the_slides(built, tmp_path, name):
    office = shutil.which("soffice")
    if not office:
        pytest.skip("LibreOffice is not installed: apt install libreoffice-impress")
    command = [office, f"-env:UserInstallation=file://{tmp_path}/profile", "--headless"]
    command += ["--convert-to", "pdf", "--outdir", str(tmp_path), str(built / f"{name}.pptx")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert pdf_pages(tmp_path / f"{name}.pdf") == len(slides_of(built / f"{name}.pptx"))


@pytest.mark.slow
def test_a_browser_prints_a_slide_a_page(built, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("Chromium is not installed: apt install chromium")
    wanted = {name: len(slides_of(built / f"{name}.pptx")) for name in SESSIONS}
    for name, pages in (wanted | {"handout": 2, "quiz": 2}).items():
        pdf = tmp_path / f"{name}.pdf"
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
        command += [
            "--no-pdf-header-footer",
            f"--print-to-pdf={pdf}",
            f"file://{built}/{name}.html",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        assert pdf_pages(pdf) == pages, name


KEYS = "() => [location.hash, document.body.className, !!document.fullscreenElement]"
FITS = """() => {
  const slide = document.querySelector(".slide.here"), edge = slide.getBoundingClientRect();
  const parts = [...slide.querySelectorAll("h2, li, img, p, footer span")];
  const inside = parts.every(part => part.getBoundingClientRect().bottom <= edge.bottom + 1
    && part.getBoundingClientRect().right <= edge.right + 1);
  return inside && edge.bottom <= innerHeight + 1 && edge.right <= innerWidth + 1
    && slide.querySelector(".body").scrollHeight <= slide.querySelector(".body").clientHeight + 1;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("size", [(1280, 720), (1920, 1080)])
def test_every_slide_fits_the_screen_and_the_keys_work(built, name, size):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("Chromium is not installed: apt install chromium")
    said = []
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": size[0], "height": size[1]})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"file://{built}/{name}.html")
        count = page.locator(".slide").count()
        for number in range(1, count + 1):
            assert page.evaluate(KEYS)[0] == f"#{number}" and page.evaluate(FITS), number
            page.keyboard.press(("ArrowRight", "PageDown", " ")[number % 3])
        assert page.evaluate(KEYS) == [f"#{count}", "", False], "it stays at the last slide"
        page.keyboard.press("PageUp")
        assert page.evaluate(KEYS)[0] == f"#{count - 1}"
        for key, mark in (("o", "overview"), ("s", "show-notes"), ("b", "blank")):
            page.keyboard.press(key)
            assert page.evaluate(KEYS)[1] == mark
            page.keyboard.press(key)
        page.keyboard.press("f")
        page.wait_for_function("() => !!document.fullscreenElement")
        chromium.close()
    assert not said
