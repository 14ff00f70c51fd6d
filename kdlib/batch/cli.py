"""The command line: its entry, and the commands that run notebooks. The others are in `errands`.

Each command imports what it needs when it is called: `--help` and `status` need no torch.
Exit codes: 0 done, 1 failed, 2 refused, 75 stopped early, 130 interrupted, 138 the kernel was
killed.
"""

import os
import shlex
import signal
import sys
from pathlib import Path

import click

from . import errands, options

PROGRAM = "python -m kdlib"


class InOrder(click.Group):
    """The commands are listed in the order of their definition, not of the alphabet."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=InOrder,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def kdlib() -> None:
    """Everything that make does, on any system."""


def main(arguments: list[str] | None = None) -> int:
    """Do what a command line says. Returns the exit code.

    An error that the user can mend is one line on stderr, without a traceback. SystemExit for
    --help, and for a command that cannot be parsed. `train` raises its errors: under torchrun the
    caller must see them, and `command` prints them in a shell.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    # not click's own `main`: it would turn Ctrl-C into an exception and an empty line of its own
    try:
        context = kdlib.make_context(PROGRAM, words)
        with context:
            return kdlib.invoke(context) or 0
    except click.exceptions.Exit as done:
        raise SystemExit(done.exit_code) from None
    except click.UsageError as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (ValueError, OSError, KeyboardInterrupt) as error:
        name = context.invoked_subcommand
        if name == "train":
            raise
        interrupted = isinstance(error, KeyboardInterrupt)
        print(f"kdlib {name}: {'interrupted' if interrupted else error}", file=sys.stderr)
        return 130 if interrupted else 2


def command() -> int:
    """`main` for a shell: errors of `train` are one line without a traceback, too."""
    try:
        return main()
    except (ValueError, OSError) as error:
        print(f"kdlib train: {error}", file=sys.stderr)
        return 2


def set_environment(max_minutes: float | None, nproc: int) -> None:
    """Pass the deadline and the number of processes to notebooks by environment variables."""
    from ..engine import deadline

    if nproc < 1:
        raise ValueError(f"--nproc must be 1 or more, not {nproc}")
    if max_minutes is not None:
        os.environ["KD_MAX_MINUTES"] = str(max_minutes)
    if nproc > 1:
        os.environ["KD_NPROC"] = str(nproc)
    deadline.fix()


def end_as_ctrl_c() -> None:
    """Make Slurm's scancel and a plain kill end the run as Ctrl-C does.

    scancel sends a second signal; it is ignored, so that the run can still clean up.
    """

    def interrupt(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@kdlib.command()
@click.argument("notebooks", nargs=-1)
@options.profile
@click.option(
    "--inplace",
    is_flag=True,
    help="keep the outputs in notebooks/ (fresh runs, for committing)",
)
@options.max_minutes
@options.nproc
def course(notebooks, profile, inplace, max_minutes, nproc) -> int:
    """Run the notebooks without opening them.

    NOTEBOOKS: which ones, such as 04 05 (default: all).
    """
    from . import runs

    set_environment(max_minutes, nproc)
    return runs.course(profile, notebooks or runs.COURSE, inplace=inplace)


@kdlib.command()
@click.argument("notebook")
@options.profile
@options.parameters
@options.max_minutes
@options.nproc
def run(notebook, profile, parameters, max_minutes, nproc) -> int:
    """Run one notebook without opening it."""
    from . import runs

    set_environment(max_minutes, nproc)
    end_as_ctrl_c()  # before anything begins that must be cleaned up
    outcome = runs.run_notebook(notebook, profile, parameters)
    print(f"executed notebook  {outcome.executed}")
    if outcome.code:
        what = "unfinished" if outcome.code == runs.STOPPED else "failed"
        print(f"{what} ({outcome.code}): {outcome.error}", file=sys.stderr)
    return outcome.code


@kdlib.command()
@click.argument("notebook")
@options.profile
@options.grid
@options.parameters
@click.option(
    "--jobs",
    default=1,
    metavar="N",
    help="points at a time; each gets cores/N threads unless OMP_NUM_THREADS is set (default: 1)",
)
@click.option(
    "--task",
    type=options.share,
    default="1/1",
    metavar="I/N",
    help="the I-th of N shares of the points (an array task)",
)
@options.max_minutes
@options.nproc
def sweep(notebook, profile, grid, parameters, jobs, task, max_minutes, nproc) -> int:
    """Run every point of a grid; finished points are skipped.

    After an interruption, the same command goes on. If a point fails, the others still run, and the
    exit code is 1.
    """
    from . import sweeps

    if not grid and task != (1, 1):
        raise ValueError("--task is a share of a grid, so it needs --grid")
    set_environment(max_minutes, nproc)
    end_as_ctrl_c()
    return sweeps.sweep(notebook, grid, profile, parameters=parameters, jobs=jobs, task=task)


@kdlib.command()
@click.argument("notebook")
@options.profile
@options.grid
@options.parameters
@click.option(
    "--cluster",
    default="",
    metavar="NAME|FILE.yaml",
    help="explorer, or a YAML file of yours: partition, limits, modules, …",
)
@click.option("--partition", default="", help="the queue, such as gpu")
@click.option("--gres", default="", help="such as gpu:a100:1")
@click.option("--time", default="", help="limit, 08:00:00")
@click.option("--mem", default="", help="such as 64G")
@click.option("--cpus", type=int, metavar="N", help="cores")
@click.option(
    "--at-once", type=int, metavar="N", help="array tasks that run at a time (Slurm's %N)"
)
@click.option(
    "--until-done", is_flag=True, help="a job that the limit stops requeues itself and goes on"
)
@options.nproc
@click.option("--submit", is_flag=True, help="pass the script to Slurm and print the job's number")
@click.option("--yes", is_flag=True, help="allow more than 1,000 points")
def sbatch(notebook, cluster, submit, **asked) -> int:
    """Write (or submit) a Slurm script for a notebook or a grid.

    It prints one script; a grid becomes an array with a task for each point. This works on a
    machine without Slurm. --submit passes the script to Slurm's own sbatch.
    """
    from . import slurm
    from .cluster import load_cluster, runs_place

    cluster = load_cluster(cluster)
    typed = shlex.join(["python", "-m", "kdlib", *sys.argv[1:]])
    script = slurm.script(notebook, cluster=cluster, command=typed, **asked)
    place = runs_place(cluster)
    if not submit:
        print(script, end="")
        note_place(place, cluster)
        return 0
    job = slurm.submit(script, place)
    note_place(place, cluster)
    print(job)
    if why := slurm.waits_for_ever(job):
        print(f"kdlib sbatch: job {job} will not start as it is: {why}", file=sys.stderr)
    return 0


def note_place(place: Path, cluster: dict) -> None:
    """Make the folder for logs and runs, and note it where `status` looks.

    On a machine that is not the cluster the folder cannot be made: the script is printed anyway.
    """
    from ..paths import remember_place, runs_root
    from .slurm import make_log_folder

    ours = place == runs_root().resolve()
    try:
        make_log_folder(place)
    except OSError as error:
        if ours:
            raise
        print(f"kdlib sbatch: {error}", file=sys.stderr)
        return
    if not ours:
        remember_place(place)
        print(
            f"kdlib sbatch: runs go to {place} ({cluster['runs'][1]}); status and store of this "
            "checkout look there too",
            file=sys.stderr,
        )


@kdlib.command()
@click.argument("notebook", default="")
def status(notebook) -> int:
    """Show the state of the runs: done, running, partial, or failed and why.

    NOTEBOOK: the runs of this one (default: all).
    """
    from . import status

    return status.main(notebook)


@kdlib.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments) -> int:
    """Distil without a notebook; train glue --help lists all options."""
    from .train_glue import main as train_glue  # it has a parser of its own, for Trainer's options

    return train_glue(list(arguments))


for errand in errands.COMMANDS:
    kdlib.add_command(errand)
