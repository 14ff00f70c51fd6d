"""Every command that README.md and CLUSTER.md show can be typed as it stands, and CLUSTER.md's table is what kdlib counts."""

import re
import shlex

import pytest
from helpers import parsed

from kdlib import slurm
from kdlib.batch.cluster import load_cluster
from kdlib.batch.options import value
from kdlib.batch.resources import smallest_card
from kdlib.batch.sweeps import grid_points
from kdlib.course.notebooks import notebook_path
from kdlib.course.run import settings_of
from kdlib.paths import ROOT
from kdlib.tools import room

PAGES = ("README.md", "CLUSTER.md", "TEACHING.md")


def commands() -> list[tuple[str, str]]:
    """(page, what follows `python -m kdlib`) of code blocks and of inline code."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf8")
        for line in re.findall(r"^(?:\w+=\S+ )*python -m kdlib +([^\n]*)", text, re.M):
            found.append((page, re.split(r"\s+#|\s*>|;", line)[0].strip()))
        inline = re.findall(r"`(?:\w+=\S+ )*python -m kdlib ([^`]*)`", text)
        found += [(page, " ".join(command.split())) for command in inline]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page, command", commands(), ids=lambda text: text)
def test_a_command_can_be_typed_as_it_stands(page, command, monkeypatch):
    words = shlex.split(command.replace("FOLDER", "/tmp"))
    if words[0] == "train":
        assert words == ["train", "glue", "--help"]
        return
    given = parsed(words)
    if words[0] in ("run", "sweep", "sbatch"):
        path = notebook_path(given["notebook"])
        grid = given.get("grid", {})
        assert grid_points(path, grid, given["profile"], given["parameters"]), (
            "the notebook declares these parameters"
        )
    if words[0] == "sbatch":
        cluster = load_cluster(given.pop("cluster"))
        given.pop("submit")
        assert slurm.script(cluster=cluster, **given)


def test_there_are_commands():
    assert len(commands()) > 12 and {page for page, _ in commands()} == set(PAGES)


def test_parameters_in_the_text_are_declared():
    """Such as `topk=0` for notebook 07."""
    text = (ROOT / "CLUSTER.md").read_text(encoding="utf8")
    named = re.findall(r"`(?:-p )?([a-z_]+)=([\w.-]+)`", text)
    assert ("topk", "0") in named
    for name, given in named:
        assert grid_points(notebook_path("07"), {}, "full", {name: value(given)})


def test_the_table_of_what_notebooks_need_is_what_kdlib_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_REAL", str(tmp_path))  # all has to be fetched
    text = (ROOT / "CLUSTER.md").read_text(encoding="utf8")
    shown = re.findall(r"^\| (\d\d) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| `(.*?)` \|", text, re.M)
    counted, cluster = {}, load_cluster("explorer")
    for name, *numbers in room.table("full").values.tolist():
        need = room.of(name, settings_of(name, "full"))
        counted[name[:2]] = [*map(float, numbers), smallest_card(cluster, need, name)]
    assert {row[0]: [*map(float, row[1:5]), row[5]] for row in shown} == counted
