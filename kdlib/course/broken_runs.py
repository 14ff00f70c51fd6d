"""Six small trainings for the last exercise of notebook 10: one is sound, five have one mistake.

`python -m kdlib.course.broken_runs` trains all six again and writes data/results/broken_runs.json.
Only the mistake differs: the rows, their order and the first weights are the same.
"""

import copy

import pandas as pd

from ..paths import DATA, write_json
from .stored import Stored

FILE = "results/broken_runs.json"
SOUND = "sound"
# The letter under which a run is shown, and what is wrong with it.
MISTAKES = {
    "A": "wrong class order",
    "B": "learning rate 1/100",
    "C": "labels permuted",
    "D": "teacher in train mode",
    "E": "T² forgotten",
}
SETTINGS = {
    "rows": 2000,
    "validation_rows": 1000,
    "epochs": 6,
    "batch_size": 64,
    "learning_rate": 5e-4,
    "temperature": 4.0,
    "alpha": 0.5,
    "seed": 0,
}
# BERT's usual dropout. The teacher that ships was trained without any.
DROPOUT = 0.1


def shown() -> dict[str, pd.DataFrame]:
    """The stored runs as tables: `curves`, a row a run and epoch, and `rows`, a row a run and row.

    curves: the training's own log, which is a mean over the epoch, and three numbers of validation
    rows that a separate, sound script has measured. rows: what the training loop saw for three
    training rows, and what the student answers in the end.
    """
    stored = Stored("").json(FILE)
    return {name: pd.DataFrame(stored[name]) for name in ("curves", "rows")}


def settings() -> dict:
    """What all six runs say about themselves. One of them does not do what it says."""
    return Stored("").json(FILE)["settings"]


# -- the trainings -------------------------------------------------------------------------------


def with_dropout(model):
    """A copy of the model with dropout on, in train mode: as if eval() had been forgotten."""
    config = copy.deepcopy(model.config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = DROPOUT
    twin = type(model)(config)
    twin.load_state_dict(model.state_dict())
    return twin.train()


def train(mistake: str, task) -> dict[str, list]:
    """One training. A plain loop, so that each mistake is one line that can be seen."""
    import torch
    import torch.nn.functional as F

    from ..losses import distillation_loss
    from ..models import student_from_teacher

    torch.manual_seed(SETTINGS["seed"])
    T, alpha = SETTINGS["temperature"], SETTINGS["alpha"]
    student = student_from_teacher(task.teacher, [0, 2]).train()
    teacher = with_dropout(task.teacher) if mistake == "teacher in train mode" else task.teacher
    rate = SETTINGS["learning_rate"] / (100 if mistake == "learning rate 1/100" else 1)
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate)
    labels = task.labels
    if mistake == "labels permuted":
        labels = labels[torch.randperm(len(labels))]
    curves, answers = [], []
    for epoch in range(SETTINGS["epochs"] + 1):
        logged = []
        answers.append(task.few_answers(teacher, mistake))
        for places in torch.randperm(len(labels)).split(SETTINGS["batch_size"]):
            batch = task.batch(places.tolist())
            with torch.no_grad():
                teacher_logits = teacher(**batch).logits
            if mistake == "wrong class order":
                teacher_logits = teacher_logits.roll(1, dims=-1)
            student_logits = student(**batch).logits
            loss = distillation_loss(
                student_logits, teacher_logits, labels[places], temperature=T, alpha=alpha
            )
            soft = loss.kd / T**2 if mistake == "T² forgotten" else loss.kd
            hard = F.cross_entropy(student_logits, labels[places])
            logged.append((soft.item(), hard.item()))
            if epoch == 0:
                continue  # the first pass only reads: the log begins before the first step
            optimizer.zero_grad()
            (alpha * soft + (1 - alpha) * hard).backward()
            optimizer.step()
        soft_mean, hard_mean = (sum(part) / len(part) for part in zip(*logged))
        curves.append(
            {"epoch": epoch, "soft_loss": soft_mean, "hard_loss": hard_mean}
            | task.validate(student)
        )
    student.eval()
    rows = task.few_rows(labels, answers, task.few_answers(student))
    return {"curves": curves, "rows": rows}


class _MiniNLI:
    """What all six trainings share: rows, the sound teacher, and how a student is validated."""

    FEW = (0, 1, 2)  # the training rows that are shown

    def __init__(self):
        import torch

        from .. import glue, models

        source = str(DATA / "teachers" / "mini_nli")
        self.names = glue.MNLI.labels
        self.teacher = models.load_teacher(source, self.names)
        self.collate = glue.collator(models.load_tokenizer(source))
        self.parts, self.texts = {}, None
        for split in ("train", glue.MNLI.validation):
            count = SETTINGS["rows" if split == "train" else "validation_rows"]
            rows = glue.load(glue.MNLI, str(DATA / "mini_nli"), split, rows=count)
            encoded = glue.encode(rows, models.load_tokenizer(source), glue.MNLI, max_length=64)
            self.parts["train" if split == "train" else "validation"] = encoded
            self.texts = self.texts or rows.select(self.FEW).to_list()
        self.labels = torch.tensor(self.parts["train"]["labels"])
        self.validation_labels = torch.tensor(self.parts["validation"]["labels"])
        with torch.inference_mode():
            self.validation_teacher = self._validation_logits(self.teacher)

    def batch(self, places: list[int], part: str = "train") -> dict:
        from ..models import forward_inputs

        batch = self.collate(self.parts[part].select(places).to_list())
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return forward_inputs(self.teacher, inputs)

    def _validation_logits(self, model):
        import torch

        places = torch.arange(len(self.validation_labels)).split(250)
        batches = [self.batch(part.tolist(), "validation") for part in places]
        return torch.cat([model(**batch).logits for batch in batches])

    def validate(self, student) -> dict[str, float]:
        """By a script of its own, with the right labels and the teacher in eval mode."""
        import torch

        from ..losses import distillation_loss

        student.eval()
        with torch.inference_mode():
            logits = self._validation_logits(student)
        student.train()
        loss = distillation_loss(
            logits, self.validation_teacher, self.validation_labels, temperature=1.0
        )
        right = (logits.argmax(-1) == self.validation_labels).float().mean()
        return {
            "accuracy": right.item(),
            "ce": loss.ce.item(),
            "kl_to_teacher": loss.kd.item(),
        }

    def few_answers(self, model, mistake: str = "") -> list[list[float]]:
        """Probabilities at T = 1 of the few rows, as the training loop sees them."""
        import torch

        with torch.no_grad():
            logits = model(**self.batch(list(self.FEW))).logits
        if mistake == "wrong class order":
            logits = logits.roll(1, dims=-1)
        return logits.softmax(-1).tolist()

    def few_rows(self, labels, answers, student_answers) -> list[dict]:
        """A row a shown row: its label, the teacher in the first and the last epoch, the student."""

        def told(probabilities):
            best = max(range(3), key=lambda i: probabilities[i])
            return f"{self.names[best]} {probabilities[best]:.0%}"

        rows = []
        for i, place in enumerate(self.FEW):
            rows.append(
                {
                    "row": place,
                    "premise": self.texts[i]["premise"],
                    "hypothesis": self.texts[i]["hypothesis"],
                    "label in training": self.names[labels[place]],
                    "teacher, first epoch": told(answers[1][i]),
                    "teacher, last epoch": told(answers[-1][i]),
                    "student at the end": told(student_answers[i]),
                }
            )
        return rows


def main() -> None:
    task = _MiniNLI()
    kept = {"settings": SETTINGS, "curves": [], "rows": []}
    for letter, mistake in ({"sound": SOUND} | MISTAKES).items():
        trained = train(mistake, task)
        for part in ("curves", "rows"):
            kept[part] += [{"run": letter} | row for row in trained[part]]
        print(letter, trained["curves"][-1])
    write_json(DATA / FILE, kept)


if __name__ == "__main__":
    main()
