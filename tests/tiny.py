"""What the tests are made of: sixty words, a made-up MNLI of them, BERTs of a few thousand weights, files in the hub's layout."""

import os
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import torch
from transformers import BertTokenizerFast

from kdlib import glue, models
from kdlib.trainer import DistillationArguments, DistillationTrainer

LABELS = glue.MNLI.labels
NOUNS = "cat dog fox owl bee ant cow pig hen elk child robot singer baker".split()
VERBS = "sees hears likes feeds finds helps draws".split()
PLACES = "here there outside inside upstairs today now again often".split()
HINTS = {0: "indeed", 1: "maybe", 2: "never"}  # the hypothesis' last word gives its label away
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "a",
    ".",
    *NOUNS,
    *VERBS,
    *PLACES,
    *HINTS.values(),
]


def tokenizer(folder: Path) -> BertTokenizerFast:
    fresh = (
        folder / f"vocab.{os.getpid()}.new"
    )  # renamed: two processes may make it at once, and neither reads half of it
    fresh.write_text("\n".join(WORDS) + "\n")
    fresh.replace(folder / "vocab.txt")
    return BertTokenizerFast(str(folder / "vocab.txt"))


def rows(count: int, seed: int = 0) -> dict[str, list]:
    draw = np.random.default_rng(seed)
    pick = lambda words: str(draw.choice(words))
    clause = lambda: (
        f"the {pick(NOUNS)} {pick(VERBS)} a {pick(NOUNS)} "
        + " ".join(pick(PLACES) for _ in range(draw.integers(0, 7)))
    )
    labels = [int(i) for i in draw.permutation(np.arange(count) % 3)]
    return {
        "premise": [clause() for _ in labels],
        "hypothesis": [f"{clause()} {HINTS[label]}" for label in labels],
        "label": labels,
        "idx": list(range(count)),
    }


def dataset(count: int, seed: int = 0, names=LABELS) -> datasets.Dataset:
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(names)),
            "idx": datasets.Value("int32"),
        }
    )
    return datasets.Dataset.from_dict(rows(count, seed), features=features)


def encoded(tokenizer, count: int, seed: int = 0) -> datasets.Dataset:
    datasets.disable_progress_bars()
    return glue.encode(dataset(count, seed), tokenizer, glue.MNLI, max_length=40)


def hub_folder(
    folder: Path, subfolder: str = "mnli", train: int = 48, validation: int = 24
) -> Path:
    """The layout of nyu-mll/glue on the hub."""
    (folder / subfolder).mkdir(parents=True)
    for split, count, seed in (("train", train, 0), ("validation_matched", validation, 1)):
        dataset(count, seed).to_parquet(str(folder / subfolder / f"{split}-00000-of-00001.parquet"))
    return folder


def bert(layers: int = 2, seed: int = 0, labels=LABELS, dropout: float = 0.0, width: int = 16):
    torch.manual_seed(seed)
    model = models.tiny_bert(
        len(WORDS), labels, layers=layers, width=width, heads=2, max_length=48, dropout=dropout
    )
    for (
        weight
    ) in model.parameters():  # BERT's own start is so small that every answer is nearly the same
        if weight.dim() > 1:
            weight.data *= 8
    model.classifier.weight.data *= 4
    return model.eval()


def arguments(folder, **changes) -> DistillationArguments:
    return DistillationArguments(
        **dict(
            output_dir=str(folder),
            per_device_train_batch_size=8,
            per_device_eval_batch_size=8,
            num_train_epochs=1,
            learning_rate=1e-3,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        | changes
    )


def trainer(
    folder, student, data, tokenizer, teacher=None, collator=None, compute_metrics=None, **changes
):
    """data: train rows, or (train, validation)."""
    train, validation = data if isinstance(data, tuple) else (data, None)
    return DistillationTrainer(
        student,
        arguments(folder, **changes),
        teacher=teacher,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator or glue.collator(tokenizer),
        compute_metrics=compute_metrics,
    )


def taught(tokenizer, folder: Path) -> SimpleNamespace:
    train, validation = encoded(tokenizer, 384, seed=2), encoded(tokenizer, 96, seed=3)
    torch.manual_seed(0)
    teacher = models.tiny_bert(
        len(WORDS), LABELS, layers=2, width=32, heads=2, max_length=48, dropout=0.0
    )
    learning = trainer(
        folder,
        teacher,
        (train, validation),
        tokenizer,
        alpha=0.0,
        num_train_epochs=12,
        per_device_train_batch_size=16,
    )
    learning.fit()
    assert learning.evaluate()["eval_accuracy"] > 0.95
    return SimpleNamespace(teacher=teacher.eval(), train=train, validation=validation)


def difference(one: dict, other: dict) -> float:
    """The largest difference between two state dicts."""
    assert one.keys() == other.keys()
    return max((one[k].double() - other[k].double()).abs().max().item() for k in one)


def snapshot(model) -> dict:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


# -- a parliament of few words -----------------------------------------------------------------------------------------

WHO = {
    "the president": "le président",
    "the member": "le membre",
    "the speaker": "l'orateur",
    "the school": "l'école",
}
DOES = {"supports": "soutient", "rejects": "rejette", "reads": "lit", "praises": "loue"}
WHAT = {
    "the report": "le rapport",
    "the opinion": "l'avis",
    "the proposal": "la proposition",
    "the budget": "le budget",
}
WHEN = {"": "", "today": "aujourd'hui", "again": "encore", "in the house": "dans l'assemblée"}


def pairs(count: int, seed: int = 0) -> dict[str, list[str]]:
    """English and French sentences of three to seven words, each different from the others."""
    everything = [
        (f"{a} {b} {c} {d}".strip() + ".", f"{WHO[a]} {DOES[b]} {WHAT[c]} {WHEN[d]}".strip() + ".")
        for a in WHO
        for b in DOES
        for c in WHAT
        for d in WHEN
    ]
    picked = np.random.default_rng(seed).permutation(len(everything))[:count]
    return {
        "en": [everything[i][0].capitalize() for i in picked],
        "fr": [everything[i][1].capitalize() for i in picked],
    }


def europarl(folder: Path, **splits) -> Path:
    """The layout of Helsinki-NLP/europarl: folder/en-fr/train-00000-of-00001.parquet with `translation: {en, fr}`."""
    (folder / "en-fr").mkdir(parents=True)
    for split, texts in splits.items():
        rows = [dict(zip(texts, row)) for row in zip(*texts.values())]
        datasets.Dataset.from_dict({"translation": rows}).to_parquet(
            str(folder / "en-fr" / f"{split}-00000-of-00001.parquet")
        )
    return folder


def llama(vocabulary: int, layers: int = 2, seed: int = 0, **changes):
    torch.manual_seed(seed)
    return models.tiny_llama(
        vocabulary,
        **dict(layers=layers, width=32, heads=2, max_length=256, initializer_range=0.2) | changes,
    ).eval()
