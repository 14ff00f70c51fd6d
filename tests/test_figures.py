"""figures: no picture without words, equal bytes for equal data, and a redraw that says where each came from."""

import json
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from kdlib import figures, gallery, results
from kdlib import paths as runs
from kdlib.course import stored as stored_records
from kdlib.figures import drawing, slides
from kdlib.paths import write_json

ALT = "Two bars: the student reaches most of what its teacher reaches."


def draw():
    figures.style()
    fig, ax = plt.subplots()
    figures.bars(ax, ["teacher", "student"], [0.9, 0.85], errors=[0.01, 0.02])
    return fig


@pytest.mark.parametrize("alt", ["", "a figure", None, 5, "   "])
def test_a_figure_without_alt_text_is_refused(tmp_path, alt):
    with pytest.raises(ValueError, match="needs an alt text"):
        figures.save_fig(draw(), "it", folder=tmp_path, alt=alt)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError):
        figures.save_fig(draw(), "it", folder=tmp_path)


def test_equal_bytes_twice(tmp_path):
    for name in ("a", "b"):
        paths = figures.save_fig(draw(), "it", folder=tmp_path / name, alt=ALT)
        assert [p.suffix for p in paths] == [".svg", ".png", ".pdf"]
        plt.close("all")
    for kind in ("svg", "png", "pdf"):
        one, other = (tmp_path / name / f"it.{kind}" for name in ("a", "b"))
        assert one.read_bytes() == other.read_bytes(), kind


def test_the_files_are_pictures_and_carry_the_words(tmp_path):
    figures.save_fig(draw(), "it", folder=tmp_path, alt=ALT)
    assert ALT in "".join(ElementTree.parse(tmp_path / "it.svg").getroot().itertext())
    png = (tmp_path / "it.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png[:4] == b"\x89PNG" and width > 800 and height > 400 and b"Description" in png
    assert (tmp_path / "it.pdf").read_bytes()[:5] == b"%PDF-"


def test_every_figure_names_its_notebook_and_says_what_it_shows():
    for name, function in figures.FIGURES.items():
        assert len(function.alt.split()) >= 10 and "\n" not in function.alt, name
        assert function.notebook[:2].isdigit() and function.__doc__, name


@pytest.fixture
def stored(tmp_path, monkeypatch):
    plt.close("all")  # what another test has left open
    monkeypatch.setattr(results, "DATA", tmp_path / "data")
    for module in (stored_records, runs):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
        monkeypatch.setattr(module, "ROOT", tmp_path)
    table = pd.DataFrame(
        {
            "method": ["ce", "kd", "kd"],
            "seed": [0, 0, 1],
            "accuracy": [0.5, 0.6, 0.7],
            "teacher_accuracy": 0.8,
        }
    )
    record = {
        "notebook": "04_distilbert_mnli",
        "profile": "laptop",
        "seed": 0,
        "settings": {},
        "results": {},
        "tables": {"methods": json.loads(table.to_json(orient="records"))},
    }
    write_json(
        tmp_path / "data" / "results" / "04_distilbert_mnli" / "laptop.json", {"records": [record]}
    )
    return tmp_path


def test_redraw(stored):
    plt.close("all")
    manifest = figures.redraw(stored / "out")
    drawn = manifest[manifest["files"].str.len() > 0]
    assert drawn["figure"].tolist() == ["methods"] and set(manifest["figure"]) == set(
        figures.FIGURES
    )
    assert {p.name for p in (stored / "out").iterdir()} == {
        "methods.svg",
        "methods.png",
        "methods.pdf",
        "manifest.json",
        "README.md",
        "index.html",
    }
    entry = next(
        e
        for e in json.loads((stored / "out" / "manifest.json").read_text())
        if e["figure"] == "methods"
    )
    assert (
        entry["notebook"] == "notebooks/04_distilbert_mnli.ipynb"
        and entry["data"] == "data/results/04_distilbert_mnli/laptop.json"
    )
    assert entry["alt"] == figures.methods.alt and entry["files"] == [
        "methods.svg",
        "methods.png",
        "methods.pdf",
    ]
    gallery = (stored / "out" / "README.md").read_text()
    assert f"![{figures.methods.alt}](methods.png)" in gallery and "learning_curves" not in gallery
    before = {p.name: p.read_bytes() for p in (stored / "out").iterdir()}
    figures.redraw(stored / "out")
    assert {p.name: p.read_bytes() for p in (stored / "out").iterdir()} == before
    assert not plt.get_fignums(), "figures were left open"


def test_redraw_without_any_stored_table(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "DATA", tmp_path / "data")
    for module in (stored_records, runs):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
        monkeypatch.setattr(module, "ROOT", tmp_path)
    assert figures.redraw(tmp_path / "new" / "out")["files"].str.len().sum() == 0
    assert (tmp_path / "new" / "out" / "manifest.json").exists()


def test_lines_show_the_spread_only_where_there_is_one():
    table = pd.DataFrame(
        {"x": [1, 2, 1, 2, 1, 2], "y": [1.0, 2, 3, 4, 5, 6], "who": ["a", "a", "a", "a", "b", "b"]}
    )
    fig, ax = plt.subplots()
    figures.lines(ax, table, "x", "y", "who", names={"a": "A"})
    assert [line.get_label() for line in ax.lines] == ["A", "b"] and len(ax.collections) == 1
    assert ax.lines[0].get_ydata().tolist() == [2.0, 3.0]
    assert (
        ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
        and ax.lines[0].get_marker() != ax.lines[1].get_marker()
    )
    plt.close(fig)


def test_another_profiles_figures_do_not_empty_the_gallery(tmp_path, monkeypatch):
    from kdlib.__main__ import main

    gallery = runs.ROOT / "figures" / "manifest.json"
    before = gallery.read_bytes()
    monkeypatch.setenv("KD_RUNS", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["figures", "--profile", "lapto"])
    main(["figures", "--profile", "smoke"])  # no record is stored under smoke: all are missing
    assert (
        gallery.read_bytes() == before and (tmp_path / "figures-smoke" / "manifest.json").exists()
    )


def limits_tables():
    plane = pd.DataFrame(
        [
            {
                "model": model,
                "method": method,
                "one_scale": "one" in method,
                "megabytes": mb,
                "quality": quality,
                "measure": "BLEU",
            }
            for model in ("a", "b")
            for method, mb, quality in (
                ("fp32", 3.1, 83),
                ("int8 dynamic", 1.3, 83),
                ("3 bits, one step", 1.0, 20),
                ("3 bits, groups of 32", 1.0, 79),
            )
        ]
    )
    kinds = pd.DataFrame(
        [
            {"model": model, "kind": kind, "bits": bits, "kl": kl / bits, "share": 0.2}
            for model in ("a", "b")
            for kind, kl in (("value", 0.0), ("head", 1.0))
            for bits in (2, 3)
        ]
    )
    few = pd.DataFrame(
        [
            {"student": name, "seed": seed, "accuracy": 50.0 + seed, "floats": 60.0}
            for name in ("rounded", "on the grid")
            for seed in (0, 1)
        ]
    )
    memory = pd.DataFrame(
        [
            {
                "gpu": gpu,
                "gpu_gb": gb,
                "recipe": recipe,
                "total": total,
                **dict.fromkeys(
                    ("weights", "gradients", "optimiser", "activations", "logits", "teacher"),
                    total / 5,
                ),
            }
            for recipe, total in (("plain", 38.0), ("+ cache", 30.0))
            for gpu, gb in (("P100", 16), ("A100-80", 80), ("H100", 80), ("V100", 32))
        ]
    )
    return {
        "quantisation_plane": plane,
        "layer_sensitivity": kinds,
        "into_few_bits": few,
        "memory_bars": memory,
    }


@pytest.mark.parametrize("name, table", limits_tables().items())
def test_the_figures_of_limits(name, table):
    """One seed or two, a KL of 0 on a logarithmic axis: drawn without a warning, every name legible in the picture."""
    figures.style()
    for part in (table, table[table["seed"] == 0] if "seed" in table else table.iloc[::-1]):
        fig = figures.FIGURES[name](part)
        fig.canvas.draw()
        said = " ".join(
            t.get_text() for ax in fig.axes for t in (*ax.texts, *ax.get_yticklabels(), ax.title)
        )
        for word in {
            "quantisation_plane": ("fp32", "3 bits, one scale"),
            "layer_sensitivity": ("value", "head"),
            "into_few_bits": ("on the grid",),
            "memory_bars": ("38.0 GB", "P100", "+ cache"),
        }[name]:
            assert word in said
        plt.close(fig)


# -- the command: slides from records -------------------------------------------------------------------------------------


def test_same_bytes_twice_in_each_format_also_from_two_processes(tmp_path):
    for name, jobs in (("one", 1), ("two", 2)):
        table = gallery.redraw(
            tmp_path / name, notebooks=("00", "01"), formats=drawing.FORMATS, jobs=jobs
        )
    assert (table["files"].str.len() == 4).all() and len(table) >= 5
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "two").iterdir()) and {
        f[-3:] for f in files
    } >= {"png", "svg", "pdf", "csv"}
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), (
            name
        )


@pytest.mark.parametrize("style", drawing.STYLES)
def test_the_styles(tmp_path, style):
    """Slides are 16:9 with letters for the back of the room; paper keeps a figure's own shape; dark is dark."""
    gallery.redraw(tmp_path, notebooks=("02",), formats=("png",), style=style)
    picture = plt.imread(tmp_path / "why_t_squared.png")
    assert (abs(picture.shape[1] / picture.shape[0] - 16 / 9) < 0.01) == (style != "paper")
    assert (picture[2, 2, :3].mean() < 0.2) == (style == "dark")
    assert plt.rcParams["axes.facecolor"] == "white" and drawing.palette() == drawing.LIGHT, (
        "the style leaked"
    )


def test_letters_on_slides_are_large_enough_and_inside():
    """Every figure that the repository can draw: no letter under 18 points on a slide, none cut off at its edge, none under the corpus' name."""
    stored, seen = gallery.Stored("laptop"), 0
    drawing.style("slides")
    for name in gallery.chosen((), "laptop"):
        draw = figures.FIGURES[name]
        stored.used = []
        try:
            table = drawing.table_of(draw, stored)
        except gallery.Missing:
            continue
        fig = draw(table)
        footer = " · ".join(filter(None, [gallery.corpus(name), gallery.source(draw, stored.used)]))
        drawing.on_slide(fig, footer, kicker=draw.title)
        fig.draw_without_rendering()
        title = drawing._message_of(fig)
        edge = [t for t in fig.texts if t.get_text() in (footer, draw.title)]
        corner = [t.get_window_extent() for t in edge]
        assert len(corner) == 2 and not any(
            ax.get_tightbbox().overlaps(one)
            for ax in fig.axes
            for one in (*corner, title.get_window_extent())
        ), name
        width, height = fig.canvas.get_width_height()
        ticks = {
            id(t)
            for one in fig.axes
            for ax in (one, *one.child_axes)
            for axis in (ax.xaxis, ax.yaxis)
            for t in axis.findobj(drawing.matplotlib.text.Text)
            if t is not axis.label
        }
        for text in fig.findobj(drawing.matplotlib.text.Text):
            if text.get_text().strip() and text.get_visible():
                assert text.get_fontsize() * (13 + 1 / 3) / drawing.CANVAS[0] >= 17.99, (
                    name,
                    text.get_text(),
                )
                box = text.get_window_extent()
                if id(text) not in ticks:  # those outside the limits are not drawn
                    assert text in edge or not any(box.overlaps(one) for one in corner), (
                        name,
                        text.get_text(),
                    )
                    assert (
                        box.x0 > -8 and box.x1 < width + 8 and box.y0 > -8 and box.y1 < height + 8
                    ), (name, text.get_text(), box)
        plt.close(fig)
        seen += 1
    drawing.style()
    assert seen >= 35


def test_every_figure_has_its_place_among_the_slides():
    chapters = (slides.ideas, slides.glue, slides.llama, slides.limits, slides.beyond)
    chapters += (slides.lecture, slides.loss, slides.rates)
    marked = {
        name
        for chapter in chapters
        for name, it in vars(chapter).items()
        if hasattr(it, "notebook")
    }
    assert marked == set(figures.FIGURES), "give the figure its place in slides.SLIDES"
    assert all(draw.title for draw in slides.SLIDES)
    assert all(getattr(figures, name) is draw for name, draw in figures.FIGURES.items())
    names = gallery.chosen((), "laptop")
    assert names == [draw.__name__ for draw in slides.SLIDES]
    assert gallery.chosen(("04", "05_distilbert_qqp"), "laptop") == [
        n for n in names if figures.FIGURES[n].notebook[:2] in ("04", "05")
    ]


def test_every_picture_names_its_corpus_or_is_known_to_have_none():
    """A synthetic corpus is always named as what it is, and twins are told apart by their picture alone."""
    known = {
        "MiniNLI, synthetic",
        "MiniQQP, synthetic",
        "MiniParl, synthetic",
        "MiniNLI and MiniParl, synthetic",
        "real MNLI rows",
        "real QQP rows",
        "real QQP and MNLI rows",
        "real MNLI rows; MiniParl, synthetic",
        "human votes (ChaosNLI, real)",
        "an estimate",
        "weights of a teacher on MiniNLI, synthetic",
        "the lecture's throughput",
        "the lecture's table, Europarl en–fr",
    }
    told = {name: gallery.corpus(name) for name in figures.FIGURES}
    # No corpus stands behind the first six, and the others name theirs in panels, rows or legend.
    unnamed = {
        "teacher_and_student",
        "softening",
        "pulls",
        "two_modes",
        "vocabulary_cost",
        "worked_row",
        "nearer_then_farther",
        "mnli_rates",
        "qqp_rates",
        "eurollama_rates",
        "translations",
        "gains",
        "claims",
    }
    assert {name for name, corpus in told.items() if not corpus} == unnamed and set(
        told.values()
    ) - {""} == known
    for twin in ("confusion", "reliability"):
        assert (told[twin], told[f"{twin}_qqp"]) == ("MiniQQP, synthetic", "real QQP rows")
    assert (told["methods"], told["methods_mnli"], told["dark_knowledge_people"]) == (
        "MiniNLI, synthetic",
        "real MNLI rows",
        "human votes (ChaosNLI, real)",
    )
    assert (
        gallery.corpus("methods", "lab") == "real MNLI rows"
        and gallery.corpus("translators", "lab") == "real Europarl pairs"
        and gallery.corpus("race", "lab") == "MiniNLI, synthetic"
    )


@pytest.mark.parametrize("style", drawing.STYLES)
def test_the_corpus_stands_in_the_picture(stored, monkeypatch, style):
    kept = []
    monkeypatch.setattr(
        drawing,
        "save_fig",
        lambda fig, name, **kw: kept.append((name, [t.get_text() for t in fig.texts])) or [],
    )
    gallery.redraw(stored / "out", notebooks=("04",), formats=("png",), style=style)
    source = "notebook 04, data/results/04_distilbert_mnli/laptop.json"
    said = {f"MiniNLI, synthetic · {source}", figures.methods.title}
    ((name, texts),) = kept
    assert name == "methods" and said < set(texts) and len(texts) == 3
    one = pd.DataFrame({"method": ["kd"], "seed": 0, "accuracy": 0.5, "teacher_accuracy": 0.6})
    (text,) = figures.methods(one).texts
    assert text.get_text() == "Students that differ in their loss alone", (
        "in a notebook the figure has its message alone; prose names the corpus"
    )
    plt.close("all")


def test_the_gallery_names_the_corpus_in_words(stored):
    gallery.redraw(stored / "out", notebooks=("04",), formats=("png",))
    entry = next(
        e
        for e in json.loads((stored / "out" / "manifest.json").read_text())
        if e["figure"] == "methods"
    )
    assert entry["corpus"] == "MiniNLI, synthetic"
    assert all(
        "Rows: MiniNLI, synthetic. From" in (stored / "out" / page).read_text()
        for page in ("README.md", "index.html")
    )


@pytest.mark.parametrize("file, whose", [("laptop", "truth"), ("lab", "100 people")])
def test_whose_entropy_it_is_is_said(file, whose):
    """The stored records of notebook 01: synthetic rows have a truth, real ones have people."""
    table = gallery.Stored(file).table("01_soft_targets", "dark_knowledge_or_smoothing")
    ax = figures.dark_knowledge_or_smoothing(table).axes[0]
    assert whose in ax.get_ylabel() and any(whose in t.get_text() for t in ax.texts)
    plt.close("all")


def test_synthetic_rows_are_never_called_people():
    """Notebook 02's panels: people stand in the axis of the real rows alone."""
    table = gallery.Stored("laptop").table("02_temperature", "nearer_then_farther")
    fig = figures.nearer_then_farther(table)
    labels = {ax.get_title().split(" (")[0]: ax.get_ylabel() for ax in fig.axes}
    assert "people" in labels["ChaosNLI"] and "KL(truth" in labels["MiniNLI"]
    plt.close("all")


def test_the_stored_race_is_plausible():
    """Half of the layers and the same embeddings: nearly twice as fast. More than three times is another program's noise."""
    table = (
        gallery.Stored("laptop").table("00_start_here", "race").set_index("model")["milliseconds"]
    )
    assert 1 < table["teacher"] / table["student"] < 3


def test_what_the_alt_of_the_plane_says_is_so():
    """8 and 4 bits are smaller and not faster; bf16 is smaller and faster: in the means that are drawn."""
    table = figures.speed_size_quality.data(gallery.Stored("laptop"))
    assert (
        "8 and 4 bits make either smaller, not faster; bf16 makes it both"
        in figures.speed_size_quality.alt
        and "fp16" not in set(table["method"])
    )
    for _, part in table.groupby("model"):
        of = part.set_index("method")
        assert (of["mb_packed"].drop("fp32") < of["mb_packed"]["fp32"]).all() and of["time"][
            "bf16"
        ] < of["time"]["fp32"]
        assert (of["time"].drop(["fp32", "bf16"]) > of["time"]["fp32"]).all()


def test_what_the_alts_of_the_learning_curves_say_is_so():
    """On real rows a hundredth of the rate does not creep: nothing of the synthetic curves' alt holds there."""
    for notebook, name, most in (
        ("04_distilbert_mnli", "learning_curves_mnli", 0.001),
        ("05_distilbert_qqp", "learning_curves_qqp", 0.0035),
    ):
        table = gallery.Stored("laptop").table(notebook, "learning_curves", "lab")
        fallen = {}
        for rate, part in table[table["split"] == "validation"].groupby("learning_rate"):
            mean = part.groupby("step")["ce"].mean()
            fallen[rate] = mean.iloc[0] - mean.iloc[-1]
        slow, middle, top = (fallen[rate] for rate in sorted(fallen))
        assert top > 0.08 and abs(slow) < 0.001 and abs(middle) < most
        assert "creeps" not in figures.FIGURES[name].alt and "creeps" in figures.learning_curves.alt


def test_a_corpus_whose_baseline_failed_is_left_out_and_named():
    """A large gain over students that learnt nothing is no gain of KD's."""
    table = figures.temperature_and_alpha_real.data(gallery.Stored("laptop"))
    chance = table.groupby("corpus")["at_chance"].mean().round(2).to_dict()
    assert chance == {"MNLI": 0.67, "QQP": 0.0}
    fig = figures.temperature_and_alpha_real(table)
    (ax,) = [ax for ax in fig.axes if ax.get_title()]
    assert ax.get_title() == "QQP, 3 seeds" and "interval over seeds excludes 0" in ax.get_xlabel()
    assert "MNLI is left out: 2 of 3 students on labels alone stayed at" in ax.get_xlabel()
    cells = [t.get_text() for t in ax.texts]
    assert "0.0" in cells and not {"-0.0", "+0.0", "−0.0", "−0.0*"} & set(cells)
    both = figures.temperature_and_alpha_real(table.assign(at_chance=False))
    limits = {ax.images[0].get_clim() for ax in both.axes if ax.get_title()}
    assert len([ax for ax in both.axes if ax.get_title()]) == 2 and len(limits) == 1, "one scale"
    plt.close("all")


def test_the_teachers_bleu_stands_beside_its_students():
    fig = figures.eurollama_rates(figures.eurollama_rates.data(gallery.Stored("laptop")))
    said = {
        ax.get_title().replace("\n", " "): " ".join(t.get_text() for t in ax.texts)
        for ax in fig.axes
    }
    assert sum("teacher" in words for words in said.values()) == 3
    assert "teacher 20.8" in said["Europarl, SmolLM2"] and "base 18.9" in said["lecture, Europarl"]
    plt.close(fig)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.images, self.ids, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        self.tags.append(tag)
        self.links += [of["href"]] if tag == "a" else []
        self.images += [of] if tag == "img" else []
        self.ids += [of["id"]] if "id" in of else []


def test_the_gallery_opens_from_a_folder(tmp_path):
    gallery.redraw(tmp_path, notebooks=("02", "08"), formats=drawing.FORMATS)
    text = (tmp_path / "index.html").read_text("utf8")
    page = Links()
    page.feed(text)
    manifest = {e["figure"]: e for e in json.loads((tmp_path / "manifest.json").read_text("utf8"))}
    assert [i["alt"] for i in page.images] == [e["alt"] for e in manifest.values()] and all(
        len(i["alt"].split()) >= 10 for i in page.images
    )
    assert (
        {"figure", "figcaption", "h1", "main", "nav"} <= set(page.tags)
        and 'lang="en"' in text
        and 'tabindex="-1"' in text
        and "keydown" in text
    )
    assert 'src="http' not in text and "url(" not in text and "<link" not in text, (
        "it must open without a network"
    )
    for link in page.links:
        assert (
            link[1:] in page.ids
            if link.startswith("#")
            else link.startswith("../notebooks/") or (tmp_path / link).exists()
        ), link
    for entry in manifest.values():
        assert {f.rsplit(".")[-1] for f in entry["files"]} == set(drawing.FORMATS) and entry[
            "commit"
        ], entry
        assert (runs.ROOT / entry["notebook"]).exists() and all(
            (runs.ROOT / d).exists() for d in entry["data"].split(", ")
        )
    assert len(pd.read_csv(tmp_path / "why_t_squared.csv")) == 7


def test_some_notebooks_keep_the_others_in_the_gallery(tmp_path):
    gallery.redraw(tmp_path, notebooks=("02",), formats=("png",))
    gallery.redraw(tmp_path, notebooks=("00",), formats=("png",))
    text = (tmp_path / "README.md").read_text("utf8")
    assert (
        "(race.png)" in text
        and "(softening.png)" in text
        and text.index("(race.png)") < text.index("(softening.png)")
    )


def test_a_missing_record_is_named_and_the_others_are_drawn(stored, capsys):
    from kdlib.__main__ import main

    write_json(stored / "data" / "results" / "05_distilbert_qqp" / "laptop.json", ["cut"])
    assert main(["figures", "04", "05", "--format", "png,csv", "--out", str(stored / "out")]) == 1
    out, err = capsys.readouterr()
    assert (
        (stored / "out" / "methods.png").exists()
        and (stored / "out" / "methods.csv").exists()
        and "1 figures" in out
    )
    assert (
        "learning_curves (no record in data/results/04_distilbert_mnli/laptop.json keeps a table learning_curves)"
        in err
    )
    assert (
        "methods_mnli (there is no data/results/04_distilbert_mnli/lab.json)" in err
        and "laptop.json is cut off or holds no records" in err
    )


EVERY = sorted(
    {f.notebook[:2] for f in figures.FIGURES.values()}
)  # by name: drawn in this process, where the folder is the test's


def broken(stored, path: str, change) -> int:
    """The exit code of drawing everything that one damaged copy of a real file stands behind."""
    from kdlib.__main__ import main

    text = (Path(__file__).parents[1] / "data" / "results" / path).read_text("utf8")
    (stored / "data" / "results" / path).parent.mkdir(parents=True, exist_ok=True)
    (stored / "data" / "results" / path).write_text(change(text), "utf8")
    return main(["figures", *EVERY, "--format", "png", "--out", str(stored / "out")])


def first_record(change):
    def changed(text):
        held = json.loads(text)
        change(held["records"])
        return json.dumps(held)

    return changed


@pytest.mark.parametrize(
    "path, change, names",
    [
        *(
            (
                "lecture.json",
                lambda text, held=held: held,
                ("mnli_rates", "qqp_rates", "eurollama_rates"),
            )
            for held in ("\n{cut", "{}", "[]")
        ),
        (
            "05_distilbert_qqp/lab.json",
            first_record(lambda records: records[0].pop("seed")),
            ("temperature_and_alpha_real",),
        ),
        (
            "05_distilbert_qqp/lab.json",
            first_record(lambda records: records[0]["results"].pop("accuracy")),
            ("temperature_and_alpha_real",),
        ),
        (
            "08_limits/laptop.json",
            first_record(
                lambda records: [
                    row.pop("recipe") for r in records for row in r["tables"].get("memory_bars", [])
                ]
            ),
            ("memory_bars",),
        ),
        (
            "00_start_here/laptop.json",
            first_record(lambda records: records.__setitem__(slice(None), ["cut"])),
            ("race",),
        ),
        ("bench_vocab_loss.json", lambda text: "[", ("vocabulary_cost",)),
    ],
)
def test_a_damaged_file_stops_no_other_figure(stored, capsys, path, change, names):
    """One line that names the file and what is wrong, the others drawn, exit code 1, nothing left open."""
    assert broken(stored, path, change) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if path in line]
    assert (
        (stored / "out" / "methods.png").exists()
        and "Traceback" not in error
        and not plt.get_fignums()
    )
    assert all(any(name in line for line in lines) for name in names), error
    assert all(line.startswith(("not drawn: ", "drawn in part: ")) for line in error.splitlines())


def test_a_mistake_in_a_drawing_function_is_not_hidden_from_tests():
    with pytest.raises(KeyError):
        figures.memory_bars(pd.DataFrame({"gpu": ["P100"], "gpu_gb": [16.0]}))


def test_a_lost_file_is_one_line(stored, capsys):
    from kdlib.__main__ import main

    assert main(["figures", *EVERY, "--format", "png", "--out", str(stored / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    lost = [
        line
        for line in lines
        if "05_distilbert_qqp/lab.json" in line and line.startswith("not drawn")
        if not line.startswith("not drawn: gains")  # it lost another corpus, too, and says so
    ]
    assert len(lost) == 1 and all(
        name in lost[0]
        for name in (
            "learning_curves_qqp",
            "reliability_qqp",
            "confusion_qqp",
            "temperature_and_alpha_real",
        )
    )


def test_records_of_mixed_versions_are_said(stored, capsys):
    from kdlib.__main__ import main

    path = stored / "data" / "results" / "04_distilbert_mnli" / "laptop.json"
    one = json.loads(path.read_text())["records"][0]
    write_json(
        path,
        {"records": [one | {"versions": {"torch": v, "python": "3.11"}} for v in ("2.12", "2.13")]},
    )
    main(["figures", "04", "--format", "png", "--out", str(stored / "out")])
    assert "methods: records of mixed versions: torch 2.12 and 2.13" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--format", "pgn"], "did you mean 'png'"),
        (["--format", ""], "format must be some of"),
        (["--style", "slide"], "did you mean 'slides'"),
        (["4"], "did you mean '04'"),
        (["05_distilbert_qpp"], "did you mean '05_distilbert_qqp'"),
        (["42"], "no figures of a notebook '42'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, said):
    from kdlib.__main__ import main

    assert main(["figures", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_figures_need_no_torch():
    code = "import sys, time; t = time.perf_counter(); import kdlib.figures, kdlib.figures.gallery, kdlib.figures.widgets; print(time.perf_counter() - t, sorted({'torch', 'seaborn', 'scipy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.ROOT
    )
    assert done.stdout.split(" ", 1)[1].strip() == "[]", done.stdout + done.stderr


def test_an_unknown_figure_is_guessed():
    with pytest.raises(AttributeError, match="did you mean 'methods'"):
        figures.method


def beyond_tables():
    modes = pd.DataFrame(
        [
            {"panel": panel, "x": x, "teacher": 0.1 * x, "student": 0.3}
            for panel in ("reverse KL", "forward KL")
            for x in range(4)
        ]
    )
    states = pd.DataFrame(
        [
            {
                "student": student,
                "hidden": hidden,
                "seed": seed,
                "accuracy": 0.5 + seed / 10,
                "teacher_accuracy": 0.8,
            }
            for student, methods in (
                ("scratch", ("ce", "mse", "mse_random")),
                ("layers", ("kd", "cosine")),
            )
            for hidden in methods
            for seed in (0, 1)
        ]
    )
    seek = pd.DataFrame(
        [
            {"lesson": lesson, "seed": seed, "outside": 0.1, "spread": 0.7}
            for lesson in ("references ce", "own reverse_kl")
            for seed in (0, 1)
        ]
    )
    return {
        "two_modes": (modes, ("reverse KL", "teacher")),
        "hidden_states": (states, ("KD + projected MSE", "from the teacher's layers", "55.0")),
        "cover_or_seek": (seek, ("CE only", "reverse KL, own words", "truth's spread")),
    }


def test_a_lesson_without_a_name_is_told_and_the_others_are_drawn(capsys):
    table, _ = beyond_tables()["cover_or_seek"]
    stranger = table.assign(lesson=table["lesson"].replace("references ce", "own tv"))
    fig = figures.FIGURES["cover_or_seek"](stranger)
    said = [text.get_text() for text in fig.axes[0].texts]
    plt.close(fig)
    assert said == ["reverse KL, own words", "the truth's spread "]
    assert capsys.readouterr().out.endswith("has no name for it: own tv\n")


@pytest.mark.parametrize("name", beyond_tables())
def test_the_figures_of_beyond_logits(name):
    """One seed or two, one student or both: drawn without a warning, every name legible in the picture."""
    import warnings

    table, words = beyond_tables()[name]
    figures.style()
    for part in (table, table[table["seed"] == 0] if "seed" in table else table):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fig = figures.FIGURES[name](part)
            fig.canvas.draw()
        said = " ".join(
            t.get_text()
            for ax in fig.axes
            for t in (
                *ax.texts,
                *ax.get_yticklabels(),
                ax.title,
                *(ax.get_legend().texts if ax.get_legend() else ()),
            )
        )
        for word in words if part is table else words[:1]:
            assert word in said
        plt.close(fig)
