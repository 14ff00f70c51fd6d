"""Slides from records: every figure again from data/results, in the lecture's order, with manifest and gallery. No torch.

    python -m kdlib figures 04 05 --format png --style dark
"""
import html
import json
import multiprocessing
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from . import drawing, figures, paths         # noqa: F401  figures: it registers them
from .drawing import FIGURES, FORMATS
from .paths import did_you_mean, write_json

# The slides' order and their titles: the lecture's way from why to limits, then what its claims are worth.
SLIDES = {
    "teacher_and_student": "Teacher and student", "race": "The race", "speed_size_quality": "Speed, size, quality, and the teacher's bill",
    "dark_knowledge": "Dark knowledge: MiniNLI (synthetic)", "dark_knowledge_people": "Dark knowledge: real people",
    "dark_knowledge_or_smoothing": "Dark knowledge, or only smoothing?", "softening": "Temperature softens",
    "nearer_then_farther": "People and teacher, over T", "why_t_squared": "T² and gradients", "pulls": "What the loss pushes",
    "mistakes": "The usual mistakes", "accuracy_hides": "Accuracy hides mistakes",
    "mnli_rates": "MNLI: learning rates", "learning_curves": "Loss curves: MiniNLI (synthetic)", "learning_curves_mnli": "Loss curves: MNLI",
    "live_curves": "One run", "methods": "Does KD help? MiniNLI (synthetic)", "methods_mnli": "Does KD help? MNLI",
    "qqp_rates": "QQP: learning rates", "learning_curves_qqp": "Loss curves: QQP", "temperature_and_alpha": "T and alpha: MiniQQP (synthetic)",
    "temperature_and_alpha_real": "T and alpha: real rows", "reliability": "Calibration: MiniQQP (synthetic)", "reliability_qqp": "Calibration: QQP",
    "confusion": "Confusion: MiniQQP (synthetic)", "confusion_qqp": "Confusion: QQP",
    "prompt_legend": "EuroLlama: prompt, source, target", "token_divergence": "Where the teacher disagrees", "translation_rates": "EuroLlama: loss curves",
    "eurollama_rates": "EuroLlama: learning rates", "translators": "EuroLlama: what helps", "translations": "EuroLlama: translations",
    "vocabulary_cost": "What the loss costs at 128,256 words",
    "end_recipes": "Hallucinated tokens: recipes", "end_learnt": "The end token is learnt", "end_unlearnt": "The end token is unlearnt",
    "quantisation_plane": "Quantisation: MiniNLI (synthetic)", "quantisation_plane_mnli": "Quantisation: MNLI", "layer_sensitivity": "Which layers break first", "into_few_bits": "Training on the grid",
    "memory_bars": "Memory: which GPU fits",
    "two_modes": "Covering and seeking", "hidden_states": "Hidden states: MiniNLI (synthetic)", "cover_or_seek": "Divergences: MiniParl (synthetic)",
    "claims": "The lecture's claims beside the records"}

# What a picture's rows are, said in its corner: by notebook, of our records and of those of real rows (files and profiles `lab`, `full`).
SYNTHETIC = {**dict.fromkeys(("00", "01", "02", "03", "04", "08", "09"), "MiniNLI, synthetic"), "05": "MiniQQP, synthetic",
             **dict.fromkeys(("06", "07", "cover_or_seek"), "MiniParl, synthetic"), **dict.fromkeys(("quantisation_plane", "layer_sensitivity"), "MiniNLI and MiniParl, synthetic")}
REAL = {**dict.fromkeys(("01", "02"), "human votes (ChaosNLI, real)"), "04": "real MNLI rows", "05": "real QQP rows", **dict.fromkeys(("06", "07"), "real Europarl pairs"), "08": "real MNLI rows"}
OTHER_ROWS = {"temperature_and_alpha_real": "real QQP and MNLI rows", "quantisation_plane_mnli": "real MNLI rows; MiniParl, synthetic", "memory_bars": "an estimate"}
# Without a corner: no corpus stands behind the first five, and the others name theirs in panels, rows or legend.
UNNAMED = ("teacher_and_student", "softening", "pulls", "two_modes", "vocabulary_cost",
           "nearer_then_farther", "mnli_rates", "qqp_rates", "eurollama_rates", "translations", "claims")


def corpus(name: str, profile: str = "laptop") -> str:
    """What the rows of a figure are, in a few words; "" for those in `UNNAMED`."""
    notebook, where = FIGURES[name].notebook[:2], FIGURES[name].file or profile
    if name in UNNAMED or name in OTHER_ROWS:
        return OTHER_ROWS.get(name, "")
    if where in ("lab", "full") and notebook in REAL:
        return REAL[notebook]
    return SYNTHETIC.get(name) or SYNTHETIC.get(notebook, "") if where != "full" else ""


class Missing(Exception):
    """A figure's records, or its table in them, are not there."""


# What a drawing function meets in a record of another form: a field that is not there, or of another kind. The gallery goes on
# with the next figure; whoever calls the function itself, as a test does, gets the exception.
UNFIT = (LookupError, StopIteration, TypeError, ValueError, AttributeError)


class Stored:
    """The stored results as the figures read them; `used` collects which files one figure took, `incomplete` what it had to leave out."""

    def __init__(self, profile: str):
        self.profile, self.used, self.incomplete, self._read = profile, [], [], {}

    def records(self, notebook: str, file: str = "") -> list[dict]:
        """All records of a notebook, of the profile or of another `file`. Missing when there are none."""
        relative = f"results/{notebook}/{file or self.profile}.json"
        held = self.json(relative)
        if not isinstance(held, dict) or not isinstance(held.get("records"), list):
            raise Missing(f"data/{relative} is cut off or holds no records")
        return held["records"]

    def has(self, notebook: str, file: str) -> bool:
        return (paths.DATA / "results" / notebook / f"{file}.json").exists()

    def table(self, notebook: str, name: str, file: str = "") -> pd.DataFrame:
        """The table that a run drew as figure `name`. Missing when no record keeps it."""
        for record in self.records(notebook, file):
            if name in record.get("tables", {}):
                return pd.DataFrame(record["tables"][name])
        raise Missing(f"no record in {self.used[-1].relative_to(paths.ROOT).as_posix()} keeps a table {name}")

    def lecture(self) -> dict:
        """The lecture's own numbers."""
        return self.json("results/lecture.json")

    def json(self, relative: str):
        """What a JSON file under data/ holds, read once. Missing when it is not there or cannot be read."""
        path = self.file(relative)
        if path not in self._read:
            try:
                self._read[path] = json.loads(path.read_text(encoding="utf8"))
            except (ValueError, OSError) as error:
                raise Missing(f"data/{relative} is cut off or not JSON ({error})") from error
        return self._read[path]

    def file(self, relative: str) -> Path:
        """Any other file under data/, noted as used."""
        path = paths.DATA / relative
        if not path.exists():
            raise Missing(f"there is no data/{relative}")
        if path not in self.used:
            self.used.append(path)
        return path

    def versions(self) -> dict[str, list[str]]:
        """Of the used records: each version that is not the same in all."""
        seen = {}
        for path in self.used:
            held = self._read.get(path)
            for record in held.get("records", []) if isinstance(held, dict) else []:
                for name, version in record.get("versions", {}).items():
                    seen.setdefault(name, set()).add(version)
        return {name: sorted(found) for name, found in seen.items() if len(found) > 1}


def chosen(notebooks, profile: str) -> list[str]:
    """The figures of some notebooks ("04", "04_distilbert_mnli"; none: all), in the slides' order. ValueError for an unknown one."""
    known = sorted({f.notebook for f in FIGURES.values()})
    wanted = set()
    for name in notebooks:
        found = {n for n in known if name in (n, n[:2])}
        if not found:
            near = f"; did you mean '0{name}'?" if f"0{name}" in {n[:2] for n in known} else did_you_mean(name, known)
            raise ValueError(f"no figures of a notebook {name!r}{near}; figures belong to {', '.join(n[:2] for n in known)}")
        wanted |= found
    order = {name: i for i, name in enumerate(SLIDES)}
    after = lambda name: max((i for other, i in order.items() if other in FIGURES and FIGURES[other].notebook <= FIGURES[name].notebook), default=-1) + 0.5
    return sorted((n for n, f in FIGURES.items() if (not wanted or f.notebook in wanted) and (profile == "laptop" or not f.data)),
                  key=lambda n: (order.get(n, after(n)), n))


def redraw(out: Path, profile: str = "laptop", *, notebooks=(), formats=("svg", "png", "pdf"), style: str = "slides", jobs: int = 1) -> pd.DataFrame:
    """All figures from data/results into `out`, with manifest.json and galleries (index.html, README.md). Trains nothing.

    Returns the manifest as a DataFrame; a figure whose records are missing has no files, and `missing` says why.
    ValueError for an unknown notebook, format or style, before anything is drawn. Figures of other notebooks that a former
    call drew into `out` stay in the manifest.
    """
    for kind in formats:
        if kind not in FORMATS:
            raise ValueError(f"format must be some of {', '.join(FORMATS)}, not {kind!r}{did_you_mean(kind, FORMATS)}")
    drawing.style(style)
    names, out = chosen(notebooks, profile), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    share = [(names[i::jobs], profile, out, formats, style) for i in range(jobs)]
    if jobs > 1:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            found = pool.starmap(_entries, share)
    else:
        found = [_entries(*share[0])]
    drawn = {e["figure"]: e for part in found for e in part}
    drawing.style()
    kept = {e["figure"]: e for e in _before(out) if e.get("figure") in FIGURES} if notebooks else {}
    manifest = [drawn.get(name) or kept[name] for name in chosen((), profile) if name in drawn or name in kept]
    write_json(out / "manifest.json", manifest)
    for file, text in (("index.html", _page(manifest)), ("README.md", _readme(manifest))):
        (out / file).write_text(text, encoding="utf8")
    return pd.DataFrame([e for e in manifest if e["figure"] in drawn])


def _entries(names: list[str], profile: str, out: Path, formats, style: str) -> list[dict]:
    """Draw some figures, in a process of their own or in this one."""
    drawing.style(style)
    stored = Stored(profile)
    return [_entry(name, stored, out, formats, style) for name in names]


def _entry(name: str, stored: Stored, out: Path, formats, style: str) -> dict:
    """Draw one figure; what the manifest says of it."""
    draw, stored.used, stored.incomplete = FIGURES[name], [], []
    entry = {"figure": name, "title": SLIDES.get(name, name.replace("_", " ").capitalize()), "notebook": f"notebooks/{draw.notebook}.ipynb"}
    entry |= {"corpus": corpus(name, stored.profile)}
    files, pictures, open_before = [], [f for f in formats if f != "csv"], plt.get_fignums()
    try:
        table = draw.data(stored) if draw.data else stored.table(draw.notebook, name, draw.file)
        fig = draw(table) if pictures else None
    except (Missing, *UNFIT) as why:
        for begun in set(plt.get_fignums()) - set(open_before):
            plt.close(begun)
        wanted = stored.used or [paths.DATA / "results" / draw.notebook / f"{draw.file or stored.profile}.json"]
        told = str(why) if isinstance(why, Missing) else f"{_list(wanted)} cannot be drawn: {why!r}"
        return entry | {"data": _list(wanted), "commit": "", "alt": draw.alt, "files": [], "missing": told}
    if pictures:
        if style == "paper":
            drawing.name_corpus(fig, entry["corpus"])
        else:
            drawing.on_slide(fig, entry["corpus"])
        files = drawing.save_fig(fig, name, folder=out, alt=draw.alt, formats=pictures)
        plt.close(fig)
    if "csv" in formats:
        files.append(out / f"{name}.csv")
        table.to_csv(files[-1], index=False, lineterminator="\n")
    entry |= {"data": _list(stored.used), "commit": _last_commit(stored.used), "alt": draw.alt, "files": [p.name for p in files], "missing": ""}
    if stored.incomplete:
        entry["incomplete"] = stored.incomplete
    if mixed := stored.versions():
        entry["mixed_versions"] = mixed
    return entry


def _list(files) -> str:
    return ", ".join(p.relative_to(paths.ROOT).as_posix() for p in files)


def _rows(entry: dict) -> str:
    """The words of a picture's corner, for those who read the gallery's text."""
    return f"Rows: {entry['corpus']}. " if entry.get("corpus") else ""


def _before(out: Path) -> list[dict]:
    try:
        return json.loads((out / "manifest.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return []


def _last_commit(paths: list[Path]) -> str:
    """The last commit of the data: the current commit would make every redraw look like a change."""
    try:
        done = subprocess.run(["git", "log", "-1", "--format=%h", "--", *map(str, paths)], cwd=paths[0].parent, capture_output=True, text=True)
        return done.stdout.strip()
    except OSError:
        return ""


def _readme(manifest: list[dict]) -> str:
    parts = ["# Figures\n\nRedrawn by `make figures` from the stored results; nothing is trained. Licence: CC BY 4.0. "
             "[index.html](index.html) shows them as slides, in a browser.\n"]
    for entry in manifest:
        picture = next((f for kind in (".png", ".svg") for f in entry["files"] if f.endswith(kind)), "")
        if picture:
            also = ", ".join(f"[{Path(f).suffix[1:].upper()}]({f})" for f in entry["files"] if f != picture)
            parts.append(f"## {entry['title']}\n\n![{entry['alt']}]({picture})\n\n{entry['alt']}  \n"
                         f"{_rows(entry)}From [{entry['notebook']}](../{entry['notebook']}), data `{entry['data']}`{'; also as ' + also if also else ''}.\n")
    return "\n".join(parts)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kdlib: figures</title>
<style>
:root {{ color-scheme: light dark; font: 1.05rem/1.5 system-ui, sans-serif }}
body {{ max-width: 62rem; margin: 0 auto; padding: 1rem }}
nav ol {{ columns: 18rem; column-gap: 3rem }}
figure {{ margin: 3rem 0; padding: .5rem; scroll-margin: 1rem }}
figure:focus-visible, a:focus-visible, summary:focus-visible {{ outline: .2rem solid #D55E00; outline-offset: .2rem }}
img {{ width: 100%; height: auto; background: white }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-size: .85rem }}
td, th {{ padding: .1rem .6rem; text-align: right; border-bottom: 1px solid gray }}
</style>
</head>
<body>
<main>
<h1>Figures of the course on knowledge distillation</h1>
<p>Redrawn from the stored results; nothing is trained. Keys: <kbd>j</kbd> next figure, <kbd>k</kbd> the one before,
<kbd>Enter</kbd> on a picture shows it alone. Text and figures: CC BY 4.0.</p>
<nav aria-label="Figures">
<ol>
{contents}
</ol>
</nav>
{figures}
</main>
<script>
const all = [...document.querySelectorAll("figure")];
document.addEventListener("keydown", event => {{
  const step = {{j: 1, k: -1}}[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  const here = all.indexOf(document.activeElement.closest("figure"));
  const next = all[Math.min(all.length - 1, Math.max(0, here + step))];
  if (next) {{ next.focus(); next.scrollIntoView(); }}
}});
</script>
</body>
</html>
"""


def _page(manifest: list[dict]) -> str:
    """One page, no script or style from elsewhere: it opens from a folder, and from a USB stick in the lecture hall."""
    shown = [e for e in manifest if any(f.endswith((".png", ".svg")) for f in e["files"])]
    say = html.escape
    contents = "\n".join(f'<li><a href="#{e["figure"]}">{say(e["title"])}</a></li>' for e in shown)
    figures = "\n".join(_figure(e) for e in shown)
    return PAGE.format(contents=contents, figures=figures)


def _figure(entry: dict) -> str:
    say, name = html.escape, entry["figure"]
    picture = next(f for kind in (".png", ".svg") for f in entry["files"] if f.endswith(kind))
    links = ", ".join(f'<a href="{f}">{Path(f).suffix[1:].upper()}</a>' for f in entry["files"])
    return (f'<figure id="{name}" tabindex="-1" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{say(entry["title"])}</h2>\n'
            f'<a href="{picture}"><img src="{picture}" alt="{say(entry["alt"])}" loading="lazy"></a>\n'
            f'<figcaption>{say(entry["alt"])}<br>{say(_rows(entry))}From <a href="../{entry["notebook"]}">{entry["notebook"]}</a>, data '
            f'<code>{say(entry["data"])}</code>; as {links}.</figcaption>\n</figure>')
