"""Slides from records: every figure again from data/results, in the lecture's order, with manifest
and gallery. No torch.

    python -m kdlib figures 04 05 --format png --style dark
"""

import html
import json
import multiprocessing
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from .. import paths
from ..course.stored import Missing, Stored
from ..paths import did_you_mean, write_json
from . import drawing
from .drawing import FORMATS, table_of
from .slides import FIGURES

# What a drawing function meets in a record of another form: a field that is not there, or of
# another kind. The gallery goes on with the next figure; whoever calls the function itself, as a
# test does, gets the exception.
UNFIT = (LookupError, StopIteration, TypeError, ValueError, AttributeError)


ALL_FORMATS = (*FORMATS, "pptx")  # a .pptx has one figure on one slide


def corpus(name: str, profile: str = "laptop") -> str:
    """What the rows of a figure are, in a few words; "" where no corpus is to be named."""
    draw = FIGURES[name]
    if isinstance(draw.rows, str):
        return draw.rows
    where = draw.file or profile
    if where in ("lab", "full") and draw.rows.real:
        return draw.rows.real
    return draw.rows.synthetic if where != "full" else ""


def chosen(notebooks, profile: str) -> list[str]:
    """The figures of some notebooks ("04", "04_distilbert_mnli"; none: all), in the slides' order.

    Those that name their own records are drawn under `laptop` alone. ValueError for an unknown
    notebook.
    """
    known = sorted({draw.notebook for draw in FIGURES.values()})
    wanted = set()
    for name in notebooks:
        found = {notebook for notebook in known if name in (notebook, notebook[:2])}
        if not found:
            raise ValueError(_no_figures_of(name, known))
        wanted |= found
    names = []
    for name, draw in FIGURES.items():
        own_records = draw.data or draw.file
        if draw.notebook in (wanted or known) and (profile == "laptop" or not own_records):
            names.append(name)
    return names


def _no_figures_of(name: str, known: list[str]) -> str:
    numbers = [notebook[:2] for notebook in known]
    near = did_you_mean(name, known)
    if f"0{name}" in numbers:
        near = f"; did you mean '0{name}'?"
    return f"no figures of a notebook {name!r}{near}; figures belong to {', '.join(numbers)}"


def redraw(
    out: Path,
    profile: str = "laptop",
    *,
    notebooks=(),
    formats=("svg", "png", "pdf"),
    style: str = "slides",
    jobs: int = 1,
) -> pd.DataFrame:
    """All figures from data/results into `out`, with manifest.json and galleries (index.html,
    README.md). Trains nothing.

    Returns the manifest as a DataFrame; a figure whose records are missing has no files, and
    `missing` says why. notebooks: only theirs; what the manifest says of others stays. jobs:
    processes. Raises ValueError for an unknown format, style or notebook.
    """
    for kind in formats:
        if kind not in ALL_FORMATS:
            known = ", ".join(ALL_FORMATS)
            near = did_you_mean(kind, ALL_FORMATS)
            raise ValueError(f"format must be some of {known}, not {kind!r}{near}")
    drawing.style(style)
    names, out = chosen(notebooks, profile), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    shares = [(names[i::jobs], profile, out, formats, style) for i in range(jobs)]
    if jobs > 1:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            found = pool.starmap(_entries, shares)
    else:
        found = [_entries(*shares[0])]
    drawing.style()
    drawn = {entry["figure"]: entry for part in found for entry in part}
    kept = _before(out) if notebooks else {}
    both = kept | drawn
    manifest = [both[name] for name in chosen((), profile) if name in both]
    write_json(out / "manifest.json", manifest)
    for page in ("index.html", "README.md"):
        (out / page).write_text(_page(page, manifest), encoding="utf8")
    return pd.DataFrame([entry for entry in manifest if entry["figure"] in drawn])


def _before(out: Path) -> dict[str, dict]:
    """What the manifest of an earlier redraw says of each figure."""
    try:
        entries = json.loads((out / "manifest.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return {entry["figure"]: entry for entry in entries if entry.get("figure") in FIGURES}


def _entries(names: list[str], profile: str, out: Path, formats, style: str) -> list[dict]:
    """Draw some figures, in a process of their own or in this one."""
    drawing.style(style)
    stored = Stored(profile)
    return [_entry(name, stored, out, formats, style) for name in names]


def _entry(name: str, stored: Stored, out: Path, formats, style: str) -> dict:
    """Draw one figure; what the manifest says of it."""
    draw = FIGURES[name]
    stored.used, stored.incomplete = [], []
    entry = {
        "figure": name,
        "title": draw.title,
        "notebook": f"notebooks/{draw.notebook}.ipynb",
        "corpus": corpus(name, stored.profile),
    }
    pictures = [kind for kind in formats if kind in ("png", "svg", "pdf")]
    open_before = set(plt.get_fignums())
    try:
        table = table_of(draw, stored)
        fig = draw(table) if pictures else None
        slide = draw(table) if "pptx" in formats else None
    except (Missing, *UNFIT) as why:
        for begun in set(plt.get_fignums()) - open_before:
            plt.close(begun)
        return entry | _not_drawn(draw, stored, why)
    files = []
    if pictures:
        footer = " · ".join(filter(None, [entry["corpus"], source(draw, stored.used)]))
        entry["message"] = drawing.said_by(fig)
        if style == "paper":
            drawing.name_corpus(fig, footer)
            drawing.name_kicker(fig, draw.title)
        else:
            drawing.on_slide(fig, footer, kicker=draw.title)
        files = drawing.save_fig(fig, name, folder=out, alt=draw.alt, formats=pictures)
        plt.close(fig)
    if "csv" in formats:
        files.append(out / f"{name}.csv")
        table.to_csv(files[-1], index=False, lineterminator="\n")
    if slide:
        files.append(_single_slide(slide, name, entry, out))
    entry |= {
        "data": _list(stored.used),
        "commit": _last_commit(stored.used),
        "alt": draw.alt,
        "files": [path.name for path in files],
        "missing": "",
    }
    if stored.incomplete:
        entry["incomplete"] = stored.incomplete
    if mixed := stored.versions():
        entry["mixed_versions"] = mixed
    return entry


def source(draw, used: list[Path]) -> str:
    """Where a figure comes from, in a line: its notebook, and the files that it was drawn from."""
    files = [path.relative_to(paths.ROOT).as_posix() for path in used]
    told = files[0] if len(files) == 1 else f"{len(files)} files in data"
    return f"notebook {draw.notebook[:2]}, {told}" if files else f"notebook {draw.notebook[:2]}"


def _single_slide(fig, name: str, entry: dict, out: Path) -> Path:
    """NAME.pptx: a figure with a native title, its alt text and its source."""
    try:
        from .deck_pptx import single
    except ImportError:
        wish = "pip install -c constraints.txt -e '.[slides]'"
        raise ValueError(f"python-pptx is missing, which writes .pptx files: {wish}") from None
    title = drawing.take_message(fig) or entry["title"]
    drawing.on_slide(fig, canvas=drawing.UNDER_A_TITLE)
    picture = drawing.small_png(fig)
    plt.close(fig)
    path = out / f"{name}.pptx"
    source = " · ".join(filter(None, [entry["corpus"], entry["notebook"]]))
    path.write_bytes(single(name, title, picture, FIGURES[name].alt, source))
    return path


def _not_drawn(draw, stored: Stored, why: Exception) -> dict:
    """The rest of the entry of a figure whose records are missing or of another form."""
    usual = paths.DATA / "results" / draw.notebook / f"{draw.file or stored.profile}.json"
    data = _list(stored.used or [usual])
    told = str(why) if isinstance(why, Missing) else f"{data} cannot be drawn: {why!r}"
    return {"data": data, "commit": "", "alt": draw.alt, "files": [], "missing": told}


def _list(files) -> str:
    return ", ".join(path.relative_to(paths.ROOT).as_posix() for path in files)


def _last_commit(files: list[Path]) -> str:
    """The last commit of the data: the current commit would make every redraw look like a
    change.
    """
    command = ["git", "log", "-1", "--format=%h", "--", *map(str, files)]
    try:
        done = subprocess.run(command, cwd=files[0].parent, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _page(name: str, manifest: list[dict]) -> str:
    """A page of the gallery from `templates/NAME.j2`: the figures that have a picture.

    index.html has no script or style from elsewhere: it opens from a folder, and from a USB stick
    in the lecture hall.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kdlib.figures"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = html.escape
    shown = [entry | _files(entry) for entry in manifest if _files(entry)["picture"]]
    return environment.get_template(f"{name}.j2").render(figures=shown)


def _files(entry: dict) -> dict:
    """`picture`: the file that a page shows; `formats`: each file's kind and name."""
    files = {Path(file).suffix[1:].upper(): file for file in entry["files"]}
    return {"picture": files.get("PNG") or files.get("SVG", ""), "formats": files}
