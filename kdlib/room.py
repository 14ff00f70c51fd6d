"""What a notebook room under a profile: GPU memory, main memory, room on the disk, and which
repositories of the hub.

    room.of("07_eurollama_distil", settings_of("07_eurollama_distil", "full")).gpu_gb

These numbers are arithmetic on published sizes (`memory.estimate` for the GPU), not measurements on
a GPU node. The job script, `doctor NOTEBOOK` and the table in CLUSTER.md read them. No torch here.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

from . import memory
from .paths import ROOT
from .run import settings_of

SOURCES = (
    "data",
    "teacher",
    "student",
    "body",
    "model",
    "tokenizer",
    "translations",
    "translator",
    "comet",
)
# The settings that change what a notebook room.
AXES = (
    *SOURCES,
    "batch_size",
    "max_length",
    "lora_rank",
    "checkpointing",
    "topk",
    "dtype",
    "accumulation",
    "train_rows",
)
CONTEXT_GB = 1.0  # CUDA's own context, and the allocator's fragments
# Main memory of a kernel with torch: 1.4 GB on a CPU, as the records of `laptop` say; CUDA's
# libraries take about as much again.
PROCESS_GB = 3.0
# Two million pairs as Python strings, beside the sets that find duplicates: the peak of
# `translation.load` on a made-up corpus of Europarl's size and length of sentences.
EUROPARL_GB = 5.5
# About what a download takes, in GB; of other models that `memory` knows, their weights.
DOWNLOADS_GB = {
    "nyu-mll/glue": 0.1,
    "Helsinki-NLP/europarl": 0.5,
    "sentence-transformers/all-MiniLM-L6-v2": 0.1,
    "Unbabel/wmt22-comet-da": 2.4,
    "Unbabel/eamt22-cometinho-da": 0.5,
}
# Of the repositories, those that hold rows: and in which folder.
DATASETS = {"nyu-mll/glue": "mnli", "Helsinki-NLP/europarl": "en-fr"}
TOKENISED_GB = 2.0  # 400,000 rows of MNLI or QQP, tokenised, with the teacher's answers
LEARNT = 0.4  # of a row's tokens the share that is learnt: the rest is prompt and source
ADAMW_BYTES = 12  # of a parameter in a checkpoint: float32 weights and AdamW's two states
MODELS_OF_06 = 7  # its stages keep so many models: the base, and six students
CHECKPOINTS = 3  # two are kept, and a third is being written


class Needs(NamedTuple):
    """GB. gpu: the largest moment of the largest training (0: any GPU will do); memory: main
    memory; disk: what the run folder grows to; downloads: {hub id: about how much}.
    """

    gpu: float
    memory: float
    disk: float
    downloads: dict[str, float]


def of(notebook: str, settings: dict) -> Needs:
    """The room of a notebook ("07_eurollama_distil") under checked settings (`run.settings_of`).

    A model that `memory` does not know counts as small: it ships with the course, or is trained at
    the user's place.
    """
    shapes = {name: known_shape(settings.get(name) or "") for name in SOURCES}
    downloads = {source: _download(source, settings) for source in repositories(settings)}
    chapter = notebook[:2]
    if chapter == "06" and shapes["model"]:
        gpu, weights, disk = _prompt(shapes["model"], settings)
    elif chapter == "07" and shapes["teacher"]:
        gpu, weights, disk = _distil(shapes["teacher"], shapes["student"], settings)
    elif shapes["teacher"]:
        student = shapes["student"] or shapes["body"]
        gpu, weights, disk = _classify(shapes["teacher"], student, settings)
    else:
        gpu, weights, disk = 0.0, 0.0, 0.5
    main = PROCESS_GB + weights
    if "Helsinki-NLP/europarl" in downloads:
        main += EUROPARL_GB
    return Needs(round(gpu, 1), round(main, 1), round(disk, 1), downloads)


def largest(notebook: str, profile: str, parameters: dict, grid: dict[str, list]) -> Needs:
    """The most that any point of a grid room. ValueError for a parameter that does not fit."""
    axes = {name: values for name, values in grid.items() if name in AXES}
    fixed = {name: value for name, value in parameters.items() if name not in ("seed", "run_dir")}
    found = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values))
        found.append(of(notebook, settings_of(notebook, profile, **fixed, **point)))
    return Needs(
        max(need.gpu for need in found),
        max(need.memory for need in found),
        max(need.disk for need in found),
        {source: size for need in found for source, size in need.downloads.items()},
    )


def repositories(settings: dict) -> list[str]:
    """The hub's repositories among the settings; what lies in the repository is none."""
    named = [settings.get(name) or "" for name in SOURCES]
    return list(dict.fromkeys(source for source in named if is_hub_id(source)))


def is_hub_id(source: str) -> bool:
    """owner/name, and neither a file nor a folder of ours."""
    if source.startswith((".", "/", "~", "runs/", "data/")) or source.count("/") != 1:
        return False
    return not (ROOT / Path(source)).exists()


def known_shape(source: str) -> memory.Shape | None:
    """The shape of a model whose name says what it is: "owner/bert-base-uncased-mnli". None if not."""
    for name in sorted(memory.MODELS, key=len, reverse=True):  # distilbert before bert
        if name.lower() in source.lower():
            return memory.MODELS[name]
    return None


def _download(source: str, settings: dict) -> float:
    shape = known_shape(source)
    if [name for name in SOURCES if settings.get(name) == source] == ["tokenizer"]:
        return 0.1  # its files for the tokenizer alone
    if source in DOWNLOADS_GB or shape is None:
        return DOWNLOADS_GB.get(source, 0.1)
    bytes_each = 2 if shape.family == "llama" else 4  # published in bfloat16, or in float32
    return round(shape.parameters * bytes_each / 1e9, 1)


def _gb(shape: memory.Shape, bytes_each: int = 4) -> float:
    return shape.parameters * bytes_each / 1e9


def _classify(teacher, student, settings: dict) -> tuple[float, float, float]:
    """GPU, weights in main memory and disk of a classifier with its teacher (03, 04, 05, 08)."""
    student = student or teacher
    step = memory.estimate(
        student, teacher, batch_size=settings["batch_size"], length=settings["max_length"]
    )
    disk = TOKENISED_GB + CHECKPOINTS * _gb(student, ADAMW_BYTES) + 4 * _gb(student)
    return step.total + CONTEXT_GB, _gb(teacher) + 2 * _gb(student) + TOKENISED_GB, disk


def _prompt(model, settings: dict) -> tuple[float, float, float]:
    """Notebook 06: float32 throughout; the base, the tuned model and its untuned copy stay."""
    step = memory.estimate(
        model,
        model,
        batch_size=settings["batch_size"],
        length=settings["max_length"],
        learnt=int(LEARNT * settings["max_length"]),
        chunk_tokens=256,
    )
    stay = 2 * _gb(model)  # beside the student and its teacher, which the estimate counts
    return step.total + stay + CONTEXT_GB, 3 * _gb(model), MODELS_OF_06 * _gb(model)


def _distil(teacher, student, settings: dict) -> tuple[float, float, float]:
    """Notebook 07: the teacher stays on the GPU, its answers cached or not."""
    student = student or teacher
    half = settings["dtype"] == "auto"
    rank = settings["lora_rank"]
    step = memory.estimate(
        student,
        teacher,
        batch_size=settings["batch_size"],
        length=settings["max_length"],
        learnt=int(LEARNT * settings["max_length"]),
        lora_rank=rank,
        checkpointing=settings["checkpointing"],
        cached_teacher=settings["topk"] > 0,
        teacher_stays=True,
        chunk_tokens=256,
        autocast=half,
        teacher_dtype="float16" if half else "float32",
        accumulation=settings["accumulation"],
    )
    trained = student.adapters(rank) if rank else student.parameters
    answers = settings["train_rows"] * 50 * 6 * (settings["topk"] or 0) / 1e9  # id and logit
    disk = CHECKPOINTS * trained * ADAMW_BYTES / 1e9 + 2 * _gb(student) + answers
    weights = _gb(teacher, 2 if half else 4) + 2 * _gb(student)
    return step.total + CONTEXT_GB, weights, disk
