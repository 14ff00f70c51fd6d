"""Options that several commands share: each is declared here once, and read into Python's values.

`-p alpha=0.5 -p method=ce` reaches a command as {"alpha": 0.5, "method": "ce"}, and
`--grid seed=0,1` as {"seed": [0, 1]}.
"""

import click

PROFILES = ("smoke", "laptop", "lab", "full")


def value(text: str):
    """A parameter as Python reads it: 2e-5 is a number, true is a truth, the rest is text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE in two parts."""
    name, _, given = text.partition("=")
    if not given:
        raise click.BadParameter(f"{text!r} should look like name=value")
    return name, given


def axis(text: str) -> tuple[str, list[str]]:
    """NAME=VALUE,VALUE: one axis of a grid. A missing value is refused later, by `collect`."""
    name, equals, values = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} should look like name=value,value")
    return name, [part.strip() for part in values.split(",")]


def share(text: str) -> tuple[int, int]:
    """I/N as two numbers, 1 ≤ I ≤ N."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise click.BadParameter(f"{text!r} should look like 3/8, the third of eight shares")
    return int(number), int(count)


def collect(context: click.Context, option: click.Option, pairs: tuple) -> dict:
    """What an option that may be repeated has collected: {name: value}, or {name: [value, …]}.

    ValueError for a name that is given twice, or an axis that lacks a value.
    """
    names = [name for name, _ in pairs]
    collected = {}
    for name, given in pairs:
        if names.count(name) > 1:
            raise ValueError(f"{option.opts[0]} {name}=… is given twice")
        if isinstance(given, str):
            collected[name] = value(given)
            continue
        if not all(given):
            raise ValueError(f"{option.opts[0]} {name}={','.join(given)}: a value is missing")
        collected[name] = [value(part) for part in given]
    return collected


profile = click.option("--profile", default="", help="smoke, laptop (default), lab or full")
parameters = click.option(
    "-p",
    "parameters",
    multiple=True,
    type=pair,
    callback=collect,
    metavar="NAME=VALUE",
    help="a parameter of the notebook; once for each, and the same for all points of a grid",
)
grid = click.option(
    "--grid",
    multiple=True,
    type=axis,
    callback=collect,
    metavar="NAME=V1,V2,…",
    help="an axis; once for each parameter that varies",
)
max_minutes = click.option(
    "--max-minutes",
    type=float,
    metavar="M",
    help="stop training after M minutes, score what there is, exit code 75",
)
nproc = click.option(
    "--nproc",
    default=1,
    metavar="N",
    help="train in N processes, one a GPU (torchrun)",
)
