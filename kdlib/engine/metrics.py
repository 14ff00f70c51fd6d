"""Accuracy and F1 as `evaluate` metrics that need no network (`evaluate.load` asks the hub).

    metric = metrics.Accuracy()
    metric.add_batch(predictions=…, references=…)
    metric.compute()                                    # {"accuracy": 0.82}

BLEU, chrF and COMET are in `scores`.
"""

import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score

# evaluate refuses what is none of these: logits in place of classes, for example.
CLASSES = datasets.Features(
    {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
)


class _Classification(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=CLASSES)


class Accuracy(_Classification):
    """Share of predictions that equal their reference, from 0 to 1."""

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(_Classification):
    """F1, from 0 to 1; `average` as in scikit-learn.

    "macro" weighs every class alike, "binary" looks at class 1 alone (GLUE's QQP).
    """

    def _compute(self, predictions, references, average="macro"):
        # A class that nobody predicts has an F1 of 0; that is no reason for a warning.
        f1 = f1_score(references, predictions, average=average, zero_division=0)
        return {f"{average}_f1": float(f1)}
