"""figures: no picture without words, equal bytes for equal data, and a redraw that says where each came from."""
import json
import struct
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from kdlib import figures, results
from kdlib import run as runs
from kdlib.run import write_json

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
    for module in (results, runs):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
        monkeypatch.setattr(module, "ROOT", tmp_path)
    table = pd.DataFrame({"method": ["ce", "kd", "kd"], "seed": [0, 0, 1], "accuracy": [0.5, 0.6, 0.7], "teacher_accuracy": 0.8})
    record = {"notebook": "04_distilbert_mnli", "profile": "laptop", "seed": 0, "settings": {}, "results": {},
              "tables": {"methods": json.loads(table.to_json(orient="records"))}}
    write_json(tmp_path / "data" / "results" / "04_distilbert_mnli" / "laptop.json", {"records": [record]})
    return tmp_path


def test_redraw(stored):
    plt.close("all")
    manifest = figures.redraw(stored / "out")
    drawn = manifest[manifest["files"].str.len() > 0]
    assert drawn["figure"].tolist() == ["methods"] and set(manifest["figure"]) == set(figures.FIGURES)
    assert {p.name for p in (stored / "out").iterdir()} == {"methods.svg", "methods.png", "methods.pdf", "manifest.json", "README.md"}
    entry = next(e for e in json.loads((stored / "out" / "manifest.json").read_text()) if e["figure"] == "methods")
    assert entry["notebook"] == "notebooks/04_distilbert_mnli.ipynb" and entry["data"] == "data/results/04_distilbert_mnli/laptop.json"
    assert entry["alt"] == figures.methods.alt and entry["files"] == ["methods.svg", "methods.png", "methods.pdf"]
    gallery = (stored / "out" / "README.md").read_text()
    assert f"![{figures.methods.alt}](methods.png)" in gallery and "learning_curves" not in gallery
    before = {p.name: p.read_bytes() for p in (stored / "out").iterdir()}
    figures.redraw(stored / "out")
    assert {p.name: p.read_bytes() for p in (stored / "out").iterdir()} == before
    assert not plt.get_fignums(), "figures were left open"


def test_redraw_without_any_stored_table(tmp_path, monkeypatch):
    for module in (results, runs):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
        monkeypatch.setattr(module, "ROOT", tmp_path)
    assert figures.redraw(tmp_path / "new" / "out")["files"].str.len().sum() == 0
    assert (tmp_path / "new" / "out" / "manifest.json").exists()


def test_lines_show_the_spread_only_where_there_is_one():
    table = pd.DataFrame({"x": [1, 2, 1, 2, 1, 2], "y": [1.0, 2, 3, 4, 5, 6], "who": ["a", "a", "a", "a", "b", "b"]})
    fig, ax = plt.subplots()
    figures.lines(ax, table, "x", "y", "who", names={"a": "A"})
    assert [line.get_label() for line in ax.lines] == ["A", "b"] and len(ax.collections) == 1
    assert ax.lines[0].get_ydata().tolist() == [2.0, 3.0]
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle() and ax.lines[0].get_marker() != ax.lines[1].get_marker()
    plt.close(fig)


def test_another_profiles_figures_do_not_empty_the_gallery(tmp_path, monkeypatch):
    from kdlib.__main__ import main
    gallery = runs.ROOT / "figures" / "manifest.json"
    before = gallery.read_bytes()
    monkeypatch.setenv("KD_RUNS", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["figures", "--profile", "lapto"])
    main(["figures", "--profile", "smoke"])                               # no record is stored under smoke: all are missing
    assert gallery.read_bytes() == before and (tmp_path / "figures-smoke" / "manifest.json").exists()
