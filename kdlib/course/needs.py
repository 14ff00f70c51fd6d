"""Which sources a notebook's settings name, and whether they can be read. Only this module and the
profiles know it.

    for need in needs.of("04_distilbert_mnli", settings):
        print(need.role, need.source, need.kind)
    needs.check("04_distilbert_mnli", "full", settings)  # before the first pass: in seconds

A profile file says under `sources` which of its parameters name one, and what is read there:
`mnli`, `qqp` or `en-fr` rows, a `classifier`, a `causal` model (both with their tokenizer), a
`tokenizer`, a `comet` checkpoint, or human `votes`. The command `get` fetches what is listed here,
the check before a run looks for it.
"""

import functools
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..engine import hub, hub_errors
from ..paths import real_folder

# Rows with human votes; they come from `python -m kdlib get real`, not from the hub.
VOTES = "chaosnli"
# Said instead of a source; the last is an installed package.
NOT_A_SOURCE = ("", "off", "none", "layers", "teacher", "scratch", "llama-models")


class Need(NamedTuple):
    """`role` is the parameter, `source` its value, `kind` what is read there (see hub.KINDS, and
    `votes`).
    """

    role: str
    source: str
    kind: str

    @property
    def here(self) -> Path | None:
        """Where it lies on this machine outside the hub's cache; None if the hub must give it."""
        if self.kind != "votes":
            return hub.on_this_machine(self.source, self.kind)
        if self.source != VOTES:
            return hub.on_this_machine(self.source)
        place = real_folder() / VOTES
        return place if place.exists() else None

    @property
    def on_hub(self) -> bool:
        return self.kind != "votes" and self.here is None and not hub.is_path(self.source)


@functools.cache
def _blocks(notebook: str) -> dict:
    import yaml

    file = resources.files("kdlib.profiles") / f"{notebook}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf8")) if file.is_file() else {}


def sources(notebook: str) -> dict[str, str]:
    """{parameter: what is read there} of a notebook's profile file."""
    return _blocks(notebook).get("sources") or {}


def of(notebook: str, settings: dict) -> list[Need]:
    """The sources that these settings name, in the profile's order. ValueError for one that cannot
    be a source.

    COMET counts only where unbabel-comet is installed: without it the notebook says so and scores
    without.
    """
    found = []
    for role, kind in sources(notebook).items():
        source = str(settings.get(role, ""))
        if source in NOT_A_SOURCE or (kind == "comet" and find_spec("comet") is None):
            continue
        need = Need(role, source, kind)
        if need.on_hub:
            try:
                hub.repository(source, kind)
            except ValueError as error:
                raise ValueError(f"{role}: {error}") from error
        found.append(need)
    return found


@functools.cache
def known_ids() -> list[str]:
    """All hub ids that a profile names, for "did you mean"."""
    names = set()
    for file in resources.files("kdlib.profiles").iterdir():
        notebook = file.name.removesuffix(".yaml")
        blocks = _blocks(notebook) if file.name.endswith(".yaml") else {}
        values = [(blocks.get(p) or {}).get(role) for p in blocks for role in sources(notebook)]
        names |= {v.partition("@")[0] for v in values if v and "/" in v and not hub.is_path(v)}
    return sorted(names)


def missing_paths(notebook: str, settings: dict) -> dict[str, str]:
    """{parameter: value} of those that name a place on this machine where there is nothing."""
    return {
        n.role: n.source
        for n in of(notebook, settings)
        if n.kind != "votes" and hub.is_path(n.source) and n.here is None
    }


def refuse_missing_paths(notebook: str, settings: dict) -> None:
    """FileNotFoundError if a setting names a folder or file that does not exist: now, and not later
    in a kernel.
    """
    for role, value in missing_paths(notebook, settings).items():
        raise FileNotFoundError(
            f"{role}={value}: there is no such folder or file{hub.how_to_make(value)}"
        )


def check(notebook: str, profile: str, settings: dict) -> dict[str, str]:
    """Look for every source before anything is computed. Returns {role: how it was found} of those
    from the hub.

    A source must be a path that exists, a copy under KD_REAL, complete in the cache, or on the hub
    and open to this user. For the first that is none of these, OSError says the cause and what to
    do. Nothing is fetched.
    """
    refuse_missing_paths(notebook, settings)
    found = {}
    for need in of(notebook, settings):
        if need.kind == "votes" and need.here is None:
            raise FileNotFoundError(
                f"{need.role}={need.source}: {real_folder()} has no such rows. Fetch them "
                f"once, in seconds: python -m kdlib get {profile} {notebook[:2]}"
            )
        if need.on_hub:
            found[need.role] = _look(need, f"python -m kdlib get {profile} {notebook[:2]}")
    return found


def _look(need: Need, command: str) -> str:
    try:
        found = hub.look(hub.repository(need.source, need.kind), known=known_ids())
        if need.kind == "comet" and not found.missing:
            for encoder in hub.encoders(found.folder / "hparams.yaml"):
                hub.look(hub.repository(encoder, "tokenizer"))
    except OSError as error:
        # name the whole command that helps
        text = str(error).replace("python -m kdlib get PROFILE NN", command)
        raise hub_errors.reworded(error, f"{need.role}: {text}") from error
    return f"{found.repository.id} at {found.commit[:7]}, {found.note}"
