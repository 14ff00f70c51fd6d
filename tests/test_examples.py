"""Every command that README.md and CLUSTER.md show can be typed as it stands, and CLUSTER.md's table is what kdlib counts."""

import re
import shlex

import pytest

from kdlib import batch, slurm
from kdlib.tools import ready
from kdlib.tools import room
from kdlib.__main__ import parser, unique, value
from kdlib.paths import ROOT
from kdlib.course.run import settings_of

PAGES = ("README.md", "CLUSTER.md")


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
    given = parser().parse_args(words)
    if given.command in ("run", "sweep", "sbatch"):
        path = batch.notebook_path(given.notebook)
        grid = {
            name: [value(v) for v in values]
            for name, values in unique(getattr(given, "grid", []), "--grid").items()
        }
        fixed = {name: value(text) for name, text in unique(given.parameters, "-p").items()}
        assert batch._points(path, grid, given.profile, fixed), (
            "the notebook declares these parameters"
        )
    if given.command == "sbatch":
        cluster = slurm.load_cluster(given.cluster)
        asked = {
            name: getattr(given, name)
            for name in ("partition", "gres", "time", "mem", "cpus", "at_once")
        }
        assert slurm.script(
            path,
            given.profile,
            grid=grid,
            parameters=fixed,
            cluster=cluster,
            nproc=given.nproc,
            **asked,
        )


def test_there_are_commands():
    assert len(commands()) > 12 and {page for page, _ in commands()} == set(PAGES)


def test_parameters_in_the_text_are_declared():
    """Such as `topk=0` for notebook 07."""
    text = (ROOT / "CLUSTER.md").read_text(encoding="utf8")
    named = re.findall(r"`(?:-p )?([a-z_]+)=([\w.-]+)`", text)
    assert ("topk", "0") in named
    for name, given in named:
        assert batch._points(batch.notebook_path("07"), {}, "full", {name: value(given)})


def test_the_table_of_what_notebooks_need_is_what_kdlib_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_REAL", str(tmp_path))  # all has to be fetched
    text = (ROOT / "CLUSTER.md").read_text(encoding="utf8")
    shown = re.findall(r"^\| (\d\d) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \| `(.*?)` \|", text, re.M)
    counted, cluster = {}, slurm.load_cluster("explorer")
    for name, *numbers in room.table("full").values.tolist():
        need = room.of(name, settings_of(name, "full"))
        counted[name[:2]] = [*map(float, numbers), slurm._gres(cluster, need, name)]
    assert {row[0]: [*map(float, row[1:5]), row[5]] for row in shown} == counted
