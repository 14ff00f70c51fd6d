"""How much room a notebook wants under a profile: on the GPU, in main memory, on the disk.

    room.of("07_eurollama_distil", settings_of("07_eurollama_distil", "full")).gpu        # GB

These numbers are arithmetic on published sizes (`memory.estimate` for the GPU), not measurements on
a GPU node. The job script, `doctor NOTEBOOK` and the table in CLUSTER.md read them. No torch here.
"""

import itertools
from typing import NamedTuple

from ..course import needs
from ..course.notebooks import COURSE
from ..course.run import settings_of
from ..engine import hub
from . import memory

CONTEXT_GB = 1.0  # CUDA's own context, and the allocator's fragments
# Main memory of a kernel with torch: 1.4 GB on a CPU, as the records of `laptop` say; CUDA's
# libraries take about as much again.
PROCESS_GB = 3.0
# Two million pairs as Python strings, beside the sets that find duplicates: the peak of
# `translation.load` on a made-up corpus with Europarl's number of pairs and length of sentences.
EUROPARL_GB = 5.5
# About what a download takes; of models that `memory` knows, it is their weights.
DOWNLOADS_GB = {"mnli": 0.1, "qqp": 0.1, "en-fr": 0.4, "comet": 2.4, "tokenizer": 0.1}
TOKENISED_GB = 2.0  # 400,000 rows of MNLI or QQP, tokenised, with the teacher's answers
LEARNT = 0.4  # of a row's tokens the share that is learnt: the rest is prompt and source
ANSWER_BYTES = 6  # of one of a token's top-k answers in the cache: its id and its logit
ADAMW_BYTES = 12  # of a parameter in a checkpoint: float32 weights and AdamW's two states
CHECKPOINTS = 3  # two are kept, and a third is being written
# Settings that change these numbers.
AXES = ("batch_size", "max_length", "lora_rank", "checkpointing", "topk", "dtype", "train_rows")


class Room(NamedTuple):
    """GB. gpu: the largest moment of the largest training (0: any GPU will do); memory: main
    memory; disk: what the run folder grows to; downloads: from the hub, what is not here yet or is
    in its cache.
    """

    gpu: float
    memory: float
    disk: float
    downloads: float


def of(notebook: str, settings: dict) -> Room:
    """The room of a notebook ("07_eurollama_distil") under checked settings (`run.settings_of`).

    A model that `memory` does not know counts as small: it ships with the course, or is trained at
    the user's place.
    """
    sources = needs.of(notebook, settings)
    shapes = {need.role: known_shape(need.source) for need in sources if need.kind != "tokenizer"}
    teacher, student = shapes.get("teacher"), shapes.get("student") or shapes.get("body")
    if notebook.startswith("06") and shapes.get("model"):
        gpu, weights, disk = _prompt(shapes["model"], settings)
    elif notebook.startswith("07") and teacher:
        gpu, weights, disk = _distil(teacher, student or teacher, settings)
    elif teacher:
        gpu, weights, disk = _classify(teacher, student or teacher, settings)
    else:
        gpu, weights, disk = 0.0, 0.0, 0.5
    main = PROCESS_GB + weights
    if any(need.kind == "en-fr" and not hub.is_path(need.source) for need in sources):
        main += EUROPARL_GB
    # a tokenizer alone is part of its model's download, which then overwrites it
    fetched = {}
    for need in sorted(sources, key=_tokenizers_first):
        fetched[need.source] = _download(need)
    return Room(*(round(gb, 1) for gb in (gpu, main, disk, sum(fetched.values()))))


def largest(notebook: str, profile: str, parameters: dict, grid: dict[str, list]) -> Room:
    """The most that any point of a grid wants. ValueError for a parameter that does not fit."""
    counted = {*AXES, *needs.sources(notebook)}
    axes = {name: values for name, values in grid.items() if name in counted}
    fixed = {name: value for name, value in parameters.items() if name not in ("seed", "run_dir")}
    rooms = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values))
        rooms.append(of(notebook, settings_of(notebook, profile, **fixed, **point)))
    return Room(*map(max, zip(*rooms)))


def known_shape(source: str) -> memory.Shape | None:
    """The shape of a model whose name says what it is: "owner/bert-base-uncased-mnli"."""
    for name in sorted(memory.MODELS, key=len, reverse=True):  # distilbert before bert
        if name.lower() in source.lower():
            return memory.MODELS[name]
    return None


def _tokenizers_first(need: needs.Need) -> bool:
    return need.kind != "tokenizer"


def _download(need: needs.Need) -> float:
    if not need.on_hub:
        return 0.0
    shape = known_shape(need.source)
    if need.kind in DOWNLOADS_GB or shape is None:
        return DOWNLOADS_GB.get(need.kind, 0.1)
    return _gb(shape, 2 if shape.family == "llama" else 4)  # published in bfloat16, in float32


def _gb(shape: memory.Shape, bytes_each: int = 4) -> float:
    return shape.parameters * bytes_each / 1e9


def _classify(teacher, student, settings: dict) -> tuple[float, float, float]:
    """GB of GPU, weights in main memory and disk, for a classifier and its teacher (00, 03 to 05,
    08).
    """
    step = memory.estimate(
        student, teacher, batch_size=settings["batch_size"], length=settings["max_length"]
    )
    weights = _gb(teacher) + 2 * _gb(student)
    disk = TOKENISED_GB + CHECKPOINTS * _gb(student, ADAMW_BYTES) + 4 * _gb(student)
    return step.total + CONTEXT_GB, weights + TOKENISED_GB, disk


def _language(student, teacher, settings: dict, **changes) -> memory.Estimate:
    """A training step of a language model, as the notebook's settings say."""
    half = settings.get("dtype") == "auto"
    return memory.estimate(
        student,
        teacher,
        batch_size=settings["batch_size"],
        length=settings["max_length"],
        learnt=int(LEARNT * settings["max_length"]),
        accumulation=settings.get("accumulation", 1),
        checkpointing=settings.get("checkpointing", False),
        autocast=half,
        teacher_dtype="float16" if half else "float32",
        chunk_tokens=256,
        **changes,
    )


def _prompt(model, settings: dict) -> tuple[float, float, float]:
    """Notebook 06: student and teacher are the same model. The base, its untuned copy and the tuned
    one lie in main memory, beside the student; one is kept on the disk. A training of more than ten
    minutes saves checkpoints, too.
    """
    step = _language(model, model, settings)
    disk = CHECKPOINTS * _gb(model, ADAMW_BYTES) + 2 * _gb(model)
    return step.total + CONTEXT_GB, 4 * _gb(model), disk


def _distil(teacher, student, settings: dict) -> tuple[float, float, float]:
    """Notebook 07. With its answers cached the teacher waits in main memory while the student
    trains.
    """
    rank, topk = settings["lora_rank"], settings["topk"]
    step = _language(student, teacher, settings, lora_rank=rank, cached_teacher=topk > 0)
    trained = student.adapters(rank) if rank else student.parameters
    learnt = settings["train_rows"] * LEARNT * settings["max_length"]
    answers = learnt * topk * ANSWER_BYTES / 1e9
    disk = CHECKPOINTS * trained * ADAMW_BYTES / 1e9 + 2 * _gb(student) + answers
    weights = _gb(teacher, 2 if settings["dtype"] == "auto" else 4) + 2 * _gb(student)
    return step.total + CONTEXT_GB, weights, disk


def table(profile: str = "full"):
    """What each notebook needs under a profile, as a DataFrame: notebook, GPU, memory, disk and
    downloads in GB. Notebooks that need little are left out.
    """
    import pandas as pd

    rows = []
    for name in COURSE:
        need = of(name, settings_of(name, profile))
        if need.downloads:
            row = {"notebook": name, "GPU": round(need.gpu), "main memory": round(need.memory)}
            rows.append(row | {"disk": round(need.disk), "downloads": need.downloads})
    return pd.DataFrame(rows)
