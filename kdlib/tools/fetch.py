"""Fetch first: all that notebooks need under a profile, on a machine with a network, before any
job.

    python -m kdlib get full 04            # models, tokenizers, rows; access is checked first
    python -m kdlib get full 04 --list     # what it would fetch, and whether it may
    python -m kdlib get lab                # every notebook

Everything goes to the hub's cache (`HF_HUB_CACHE`), where a run finds it with or without a network.
A fetch that was interrupted goes on with the same command; what is whole already is compared with
the hub and left alone.
"""

from typing import NamedTuple

from ..corpora.get import get_real
from ..course import needs
from ..course.run import settings_of
from ..engine import hub, hub_errors


class Line(NamedTuple):
    """One repository of the plan: the roles that it plays ("04 teacher"), and what the hub or the
    cache said of it.
    """

    roles: list[str]
    found: hub.Found


def wanted(profile: str, notebooks: list[str], parameters: dict) -> dict[needs.Need, list[str]]:
    """{need: its roles} over the notebooks, each source once. ValueError for a parameter that none
    of them has.
    """
    used = set()
    roles = {}
    for notebook in notebooks:
        known = settings_of(notebook, profile)
        own = {name: value for name, value in parameters.items() if name in known}
        used |= set(own)
        for need in needs.of(notebook, settings_of(notebook, profile, **own)):
            nameless = need._replace(role="")
            roles.setdefault(nameless, []).append(f"{notebook[:2]} {need.role}")
    if unknown := sorted(set(parameters) - used):
        raise ValueError(
            f"none of {', '.join(n[:2] for n in notebooks)} has a parameter {', '.join(unknown)}"
        )
    return roles


def plan(repositories: dict[hub.Repository, list[str]]) -> list[Line]:
    """Ask for all of them. OSError that lists every one that cannot be had, the first in full."""
    lines, refused = [], []
    for repository, roles in repositories.items():
        try:
            lines.append(Line(roles, hub.look(repository, thorough=True, known=needs.known_ids())))
        except hub_errors.NotHere as error:  # no network: the others have none either
            raise _no_network(error) from error
        except OSError as error:
            refused.append((repository, error))
    if refused:
        others = [f"{r.named}: {getattr(e, 'cause', e)}" for r, e in refused[1:]]
        more = f" Nor could these be had: {'; '.join(others)}." if others else ""
        first = refused[0][1]
        raise hub_errors.reworded(first, f"{first}{more}") from first
    return lines


def _no_network(error: OSError) -> OSError:
    """What `get` says where nothing can be fetched; a run's advice, to fetch first, would lead in a
    circle.
    """
    if hub.offline():
        return hub_errors.NotHere(
            "HF_HUB_OFFLINE is set, so nothing can be fetched",
            f"Unset it and run again. ({error.cause})",
        )
    return hub_errors.NotHere(
        "the hub cannot be reached from this machine",
        "On a cluster run this command on the login node; behind a proxy set "
        "https_proxy=http://HOST:PORT (and no_proxy for what must not go through it). "
        f"({error.cause})",
    )


def _encoders(lines: list[Line], only_list: bool) -> list[Line]:
    """A COMET checkpoint names its encoder in a small file, which has to be there first."""
    roles = {}
    for line in lines:
        if line.found.repository.kind != "comet":
            continue
        if not only_list:
            small = [name for name in line.found.missing if name == "hparams.yaml"]
            hub.fetch(line.found._replace(missing=small))
        for name in hub.encoders(line.found.folder / "hparams.yaml"):
            roles.setdefault(hub.repository(name, "tokenizer"), []).append("COMET's encoder")
    return plan(roles)


def _merged(wished: dict[needs.Need, list[str]]) -> dict[hub.Repository, list[str]]:
    """{repository: roles}; a tokenizer alone is part of the same repository's model."""
    found = {}
    for need, roles in wished.items():
        if need.on_hub:
            found.setdefault(hub.repository(need.source, need.kind), []).extend(roles)
    for repository in [r for r in found if r.kind == "tokenizer"]:
        for whole in (repository._replace(kind=kind) for kind in hub.MODELS):
            if whole in found:
                found[whole].extend(found.pop(repository))
                break
    return found


def _print_plan(lines: list[Line]) -> int:
    """A line for each repository; the bytes to fetch."""
    for roles, found in lines:
        size, left = sum(found.sizes.values()), found.bytes_missing
        state = f"{_size(left)} to fetch" if found.missing else found.note
        files = f"{len(found.sizes)} file{'s' if len(found.sizes) > 1 else ''}"
        print(
            f"{', '.join(dict.fromkeys(roles))}: {found.repository.id} at {found.commit[:7]} "
            f"({files}, {_size(size)}): {state}"
        )
    left = sum(line.found.bytes_missing for line in lines)
    print(f"to fetch: {_size(left)}; free: {_size(hub.free_bytes())} under {hub.cache()}")
    return left


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def get_profile(
    profile: str, notebooks: list[str], parameters: dict | None = None, *, only_list: bool = False
) -> int:
    """Check access to all, say sizes, fetch what is missing. The exit code: 1 while something has
    to be made by hand.

    Raises ValueError for an unknown profile, parameter or id, OSError with the cause and what to do
    for a repository that cannot be had, a full disk, a closed cache: before the first byte, as far
    as that can be known.
    """
    wished = wanted(profile, notebooks, parameters or {})
    lines = plan(_merged(wished))
    lines += _encoders(lines, only_list)
    if lines:
        left = _print_plan(lines)
        if left > hub.free_bytes():
            raise hub_errors.disk_full(
                hub.cache(), f"{len(lines)} repositories", left, hub.free_bytes()
            )
    if not only_list:
        for line in lines:
            if line.found.missing:
                print(f"fetching {line.found.repository.id} …", flush=True)
                hub.fetch(line.found)
    return _by_hand(wished, profile, bool(lines), only_list)


def _by_hand(
    wished: dict[needs.Need, list[str]], profile: str, any_repository: bool, only_list: bool
) -> int:
    """Human votes come from elsewhere; a teacher of one's own has to be trained."""
    to_make = 0
    for need, roles in wished.items():
        if need.on_hub or need.here is not None:
            continue
        if need.kind != "votes":
            to_make += 1
            print(f"{', '.join(roles)}: there is no {need.source}{hub.how_to_make(need.source)}")
        elif only_list:
            print(f"{', '.join(roles)}: {need.source}, with `get real --part chaosnli`, 1 MB")
        else:
            get_real([needs.VOTES])
    if to_make:
        print(f"{to_make} source{'s' if to_make > 1 else ''} to make by hand")
        return 1
    if not only_list:
        if any_repository:
            print("all is here: runs need no network (HF_HUB_OFFLINE=1)")
        else:
            print(f"profile {profile} reads nothing from the hub here: all is on this machine")
    return 0
