"""Teachers that translate: how each was made, and one that ships as answers instead of weights.

`python -m kdlib.course.teachers NAME` makes them again. A pretrained teacher's weights are too
large to ship (SmolLM2: 540 MB). What ships is a folder of three files:

    teacher.json               how it was made, and how well it translates
    references.safetensors     its answers to training pairs (and some validation pairs), token by
                               token: what a student hears that learns the references
    translations.safetensors   its *own translations* of the same sentences, as token ids, and
                               its answers to them (sequence-level KD); it may be missing
"""

import copy
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch

from .. import chat, models, scores, translation
from ..engine import stored_answers, teacher_cache
from ..engine.stored_answers import StoredAnswers
from ..paths import ROOT, write_json
from ..trainer import DistillationTrainer
from . import recipes
from .run import set_seed

# The Llamas. body: the pretrained one to begin with, "" for one from scratch. rows and evaluated: 0
# takes all; tokenizer: "" is the body's, or one trained on the rows; system: the chat's first turn;
# steps: where the epochs end early.
TRANSLATORS = {
    "miniparl": {
        "source": "data/miniparl",
        "body": "",
        "system": chat.SYSTEM,
        "tokenizer": "",
        "rows": 0,
        "evaluated": 0,
        "max_words": 100,
        "layers": 4,
        "width": 128,
        "heads": 4,
        "kv_heads": 2,
        "inner": 256,
        "initializer_range": 0.09,
        "epochs": 6,
        "learning_rate": 3e-3,
        "batch_size": 64,
        "max_length": 256,
        "seed": 0,
    },
    "europarl": {
        "source": "Helsinki-NLP/europarl",
        "body": "",
        "system": chat.SYSTEM,
        "tokenizer": "llama-models",
        "rows": 8000,
        "evaluated": 200,
        "max_words": 25,
        "layers": 4,
        "width": 96,
        "heads": 4,
        "kv_heads": 2,
        "inner": 192,
        "initializer_range": 0.1,
        "epochs": 1,
        "learning_rate": 2e-3,
        "batch_size": 16,
        "max_length": 192,
        "seed": 0,
    },
    "smollm2": {
        "source": "Helsinki-NLP/europarl",
        "body": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "system": "",
        "tokenizer": "",
        "rows": 20000,
        "steps": 1000,  # 16,000 of these pairs
        "evaluated": 500,
        "max_words": 20,
        "epochs": 1,
        "learning_rate": 2e-4,
        "batch_size": 16,
        "max_length": 192,
        "dtype": "auto",
        "seed": 0,
    },
}
# What nobody has translated before: to read what a translator makes of them.
OUR_SENTENCES = [
    "Good morning, and welcome to the debate.",
    "I agree with the first speaker.",
    "The committee has not yet voted on this report.",
    "We cannot accept this amendment.",
    "How much will the new railway cost?",
    "The farmers of our region need help this winter.",
    "She did not say that the law was wrong.",
    "Mr President, thank you for giving me the floor.",
    "The vote will take place tomorrow at noon.",
    "My cat sleeps on the keyboard while I write my thesis.",
    "Small models can learn from large ones.",
    "In 1999 only 27 of the 412 members spoke against it.",
]
OURS = {"en": OUR_SENTENCES}  # as pairs without a reference
LLAMA_SIZES = ("layers", "width", "heads", "kv_heads", "inner", "initializer_range")
EVALUATED = ("validation", "test")
# What ships of a teacher that ships as answers. rows: training pairs, the first of those that it
# was trained on; validation: as many pairs draw the curves of the students' distance to it.
ANSWERED = {
    "rows": 6000,
    "validation": 300,
    "topk": {"references": 11, "translations": 4},
    "temperatures": (1.0, 2.0),
}


def ships_answers(corpus: str) -> bool:
    """Are this teacher's weights too large to ship?"""
    return bool(TRANSLATORS[corpus]["body"])


def train(corpus: str, out: Path, scratch: Path, weights: Path | None = None) -> None:
    """A Llama on sentence pairs, pretrained or from scratch; weights, tokenizer and `teacher.json`
    go to `out`. With a folder for the weights, its answers go to `out` instead.

    Its end token is a reserved one: student and teacher share a vocabulary, and nothing is resized.
    """
    start = time.perf_counter()
    settings = dict(TRANSLATORS[corpus])
    set_seed(settings["seed"])
    length = settings["max_length"]
    pairs = _pairs(settings)
    tokenizer = _translators_tokenizer(settings, pairs["train"])
    teacher = _untrained_translator(settings, tokenizer)
    rows, validation = (
        translation.encode(pairs[split], tokenizer, max_length=length, system=settings["system"])[0]
        for split in ("train", "validation")
    )
    trainer = DistillationTrainer(
        models.add_end_token(teacher, tokenizer),
        recipes.arguments(scratch, settings),
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=translation.collator(tokenizer),
    )
    trainer.fit()
    # with fewer steps than an epoch has, not all rows were read
    read = trainer.state.global_step * settings["batch_size"]
    about = settings | {"rows": min(len(rows), read)}
    bleu = {}
    for split in EVALUATED:
        bleu[f"{split}_bleu"] = _bleu(trainer, tokenizer, pairs[split], settings["system"])
    about |= (
        {"perplexity": trainer.evaluate()["eval_perplexity"]} | recipes.about(trainer, start) | bleu
    )
    recipes.save(weights or out, trainer.model, tokenizer, about)
    if weights:
        write_answers(corpus, weights, out)
    print(
        f"{out}: BLEU {about['validation_bleu']:.1f} on validation, {about['test_bleu']:.1f} on "
        f"test, {about['minutes']} minutes"
    )


def _pairs(settings: dict) -> dict:
    """{split: a data set of sentence pairs}."""
    pairs = {}
    for split in ("train", *EVALUATED):
        pairs[split] = translation.load(
            settings["source"],
            split,
            rows=settings["rows" if split == "train" else "evaluated"],
            max_words=settings["max_words"],
        ).rows
    return pairs


def _translators_tokenizer(settings: dict, train):
    named = settings["tokenizer"] or settings["body"]
    if named:
        return translation.tokenizer(named)
    texts = (text for side in ("en", "fr") for text in train[side])
    return chat.with_end_token(chat.small_tokenizer(texts), "reserved")


def _untrained_translator(settings: dict, tokenizer):
    if settings["body"]:
        return models.load_causal(settings["body"])
    sizes = {name: settings[name] for name in LLAMA_SIZES}
    return models.tiny_llama(
        len(tokenizer), tokenizer=tokenizer, max_length=settings["max_length"], **sizes
    )


def _bleu(trainer: DistillationTrainer, tokenizer, pairs, system: str) -> float:
    translations = translation.translate(trainer.model, tokenizer, list(pairs["en"]), system=system)
    return scores.bleu(translations.texts, list(pairs["fr"])).value


# -- a teacher that ships as answers -------------------------------------------------------------


class StoredTranslator(NamedTuple):
    """What is left of a teacher without its weights."""

    references: StoredAnswers
    translations: StoredAnswers | None
    about: dict

    def answers(self, targets: str) -> StoredAnswers:
        """targets: references, or teacher for its own translations.

        ValueError where those do not ship.
        """
        if targets == "references":
            return self.references
        if self.translations is None:
            raise ValueError(
                "targets=teacher: this stored teacher's own translations do not ship; train it "
                "again (python -m kdlib.course.teachers smollm2) and name its folder of answers "
                "with teacher=runs/teacher_smollm2/answers, or take targets=references"
            )
        return self.translations


def stored(teacher: str | Path) -> StoredTranslator | None:
    """The answers in a folder; None where it has none, because it is a model.

    ValueError where one of the files is damaged.
    """
    folder = _folder(teacher)
    if not (folder / "references.safetensors").is_file():
        return None
    translations = None
    if (folder / "translations.safetensors").exists():
        translations = StoredAnswers(folder / "translations.safetensors")
    about = json.loads((folder / "teacher.json").read_text(encoding="utf8"))
    return StoredTranslator(StoredAnswers(folder / "references.safetensors"), translations, about)


def _folder(teacher: str | Path) -> Path:
    return Path(teacher) if Path(teacher).is_dir() else ROOT / teacher


def pairs(settings, stored: StoredTranslator | None) -> dict:
    """{split: sentence pairs} of notebook 07's settings.

    With a stored teacher the training pairs are those that it has answered.
    """
    loaded = {}
    for split in ("train", *EVALUATED):
        loaded[split] = translation.load(
            settings.data,
            split,
            rows=getattr(settings, f"{split}_rows"),
            max_words=settings.max_words,
            among=stored.references.pairs if stored and split == "train" else None,
        ).rows
    return loaded


def scored(translations: dict, references: list[str]) -> str:
    """BLEU and chrF with their signature, and how many translations never ended."""
    bleu, chrf = (score(translations["texts"], references) for score in (scores.bleu, scores.chrf))
    endless = len(translations["report"]["hit_limit"])
    return (
        f"BLEU {bleu.value:.1f}, chrF {chrf.value:.1f}; "
        f"{endless} of {len(references)} hit the length limit\n{bleu.signature}"
    )


def last_look(history: list[dict]) -> dict:
    """Cross-entropy and perplexity on validation pairs after the last step."""
    ce = [step["ce"] for step in history if step["split"] == "validation"][-1]
    return {"ce": ce, "perplexity": math.exp(ce)}


def of_caches(caches, audit: dict) -> dict:
    """What a record keeps of the teacher's stored answers; without any, of none."""
    if not caches:
        return {"teacher_seconds": None, "cosine": {}, "bytes_per_token": None}
    return {
        "teacher_seconds": sum(cache.seconds for cache in caches),
        "cosine": {name: value for name, value in audit.items() if "cosine" in name},
        "bytes_per_token": audit["bytes per token"],
    }


def kept_texts(texts: list[str], references: list[str], synthetic: bool) -> dict:
    """The first translations of a synthetic corpus; of a real one no word, but counts for BLEU."""
    if synthetic:
        return {"texts": texts[:200], "bleu_counts": []}
    return {"texts": [], "bleu_counts": scores.bleu_counts(texts, references)}


def cost(teacher: str | Path) -> str:
    """What a teacher that ships cost, in a sentence."""
    try:
        about = json.loads((_folder(teacher) / "teacher.json").read_text(encoding="utf8"))
        return (
            f"teacher's training: {about['rows']:,} pairs, {about['minutes']} minutes, "
            f"BLEU {about['test_bleu']:.1f} on test"
        )
    except (OSError, KeyError, ValueError):
        return "the teacher was trained elsewhere, at a cost unknown here"


def starting_point(source: str, layers: str, tokenizer, end_token: str, teacher=None):
    """Some layers of a model, copied: where every student of a comparison starts.

    source: hub id or folder; "" or layers: the teacher. layers: as in 0,2, or all. ValueError where
    the tokens of `source` are not those of `tokenizer`: equal sizes are not equal tokens.
    """
    model = teacher
    if source not in ("", "layers"):
        models.check_vocabularies(tokenizer, translation.tokenizer(source, end_token))
        model = models.add_end_token(models.load_causal(source), tokenizer)
    if model is None:
        raise ValueError(
            "this teacher ships as answers and has no layers: name with student=… the model whose "
            "layers the student starts from"
        )
    return models.student_from_teacher(model, models.which_layers(layers, model)).float()


def new_student(cut, lora_rank: int):
    """A copy of `cut` to be trained; with a rank, adapters of that rank, which alone are trained."""
    student = copy.deepcopy(cut)
    return models.with_lora(student, lora_rank) if lora_rank else student


def own_translations(teacher: StoredTranslator, pairs, tokenizer):
    """`pairs` with the teacher's translations in the references' place.

    pairs: of `translation.load(…, among=teacher.translations.pairs)`. ValueError for a pair that it
    did not translate.
    """
    import datasets

    answers = teacher.answers("teacher")
    texts = {}
    for key, ids in zip(answers.pairs, answers.targets()):
        texts[key] = tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    keys = translation.pair_keys(pairs)
    unknown = sum(key not in texts for key in keys)
    if unknown:
        raise ValueError(
            f"{unknown:,} of {len(keys):,} pairs were not translated by the stored teacher: load "
            "them with among=teacher.translations.pairs"
        )
    french = [texts[key] for key in keys]
    return datasets.Dataset.from_dict({"en": list(pairs["en"]), "fr": french})


def write_answers(corpus: str, weights: Path, out: Path) -> None:
    """Ask a trained teacher about its first training pairs, and write what ships to `out`."""
    import datasets

    out.mkdir(parents=True, exist_ok=True)
    settings = TRANSLATORS[corpus]
    teacher, tokenizer = models.load_causal(weights), models.load_tokenizer(weights)
    pairs = _pairs(settings)
    asked = pairs["train"].select(range(ANSWERED["rows"]))
    seen_on_the_way = pairs["validation"].select(
        range(min(ANSWERED["validation"], len(pairs["validation"])))
    )
    system = settings["system"]
    english = list(asked["en"])
    # Half precision is enough to choose the likeliest word, and twice as fast where a machine
    # multiplies it; what it knows about each word is asked in float32.
    dtype = models.machine_dtype() if settings.get("dtype") == "auto" else torch.float32
    speaker = models.load_causal(weights, dtype=dtype)
    said = translation.translate(speaker, tokenizer, english, system=system)
    own = datasets.Dataset.from_dict({"en": english, "fr": [text or "." for text in said.texts]})
    told = {
        "references": (datasets.concatenate_datasets([asked, seen_on_the_way]), None),
        "translations": (own, translation.pair_keys(asked)),
    }
    caches = {}
    for name, (texts, keys) in told.items():
        seconds = said.report["seconds"] if name == "translations" else 0.0
        caches[name] = _write_answers(corpus, out, name, teacher, tokenizer, texts, keys, seconds)
    about = json.loads((weights / "teacher.json").read_text(encoding="utf8"))
    about["tested"] = len(pairs["test"])
    ours = translation.translate(teacher, tokenizer, OUR_SENTENCES, system=system)
    about["own"] = dict(zip(OUR_SENTENCES, ours.texts))
    about["audit"] = _audit(settings, teacher, tokenizer, seen_on_the_way, caches["references"])
    write_json(out / "teacher.json", about)


def _audit(settings: dict, teacher, tokenizer, pairs, cache) -> dict:
    """How near the gradient of the kept words is to that of all, for the student at its start.

    The student has every third of the body's layers.
    """
    body = models.load_causal(settings["body"])
    layers = list(range(0, body.config.num_hidden_layers, 3))
    rows, _ = translation.encode(
        pairs, tokenizer, max_length=settings["max_length"], system=settings["system"]
    )
    student = models.student_from_teacher(body, layers)
    return teacher_cache.audit(cache, teacher, rows, tokenizer, student=student)


def _write_answers(
    corpus: str,
    out: Path,
    name: str,
    teacher,
    tokenizer,
    pairs,
    keys: list[int] | None,
    seconds: float,
) -> teacher_cache.TeacherCache:
    """Write one file; returns the cache that it is packed from.

    keys: of the pairs that the texts stand for, where they are not their own.
    """
    settings = TRANSLATORS[corpus]
    rows, report = translation.encode(
        pairs, tokenizer, max_length=settings["max_length"], system=settings["system"]
    )
    if report["dropped"] or report["cut"]:
        raise ValueError(
            f"{report['dropped']} pairs too long, {report['cut']} cut: raise max_length"
        )
    topk = ANSWERED["topk"][name]
    temperatures = ANSWERED["temperatures"]
    cache = teacher_cache.build(teacher, rows, tokenizer, topk=topk, temperatures=temperatures)
    about = {"rows": len(rows), "seconds": round(seconds + cache.seconds, 1)}
    targets = None
    if keys:
        targets = [[label for label in labels if label != -100] for labels in rows["labels"]]
    stored_answers.pack(
        cache,
        keys or translation.pair_keys(pairs),
        out / f"{name}.safetensors",
        topk=topk,
        about=about,
        targets=targets,
    )
    return cache
