"""Accuracy, F1, BLEU and chrF as `evaluate` metrics that need no network: `evaluate.load("accuracy")` asks the hub.

    metric = metrics.Accuracy(); metric.add_batch(predictions=…, references=…); metric.compute()   # {"accuracy": 0.82}
"""
import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score

_FEATURES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})


_TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))})


class _Classification(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=_FEATURES)


class Accuracy(_Classification):
    """Share of predictions that equal their reference."""

    def _compute(self, predictions, references):
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(_Classification):
    """F1; `average` as in scikit-learn: "macro" weighs every class alike, "binary" looks at class 1 alone (GLUE's QQP)."""

    def _compute(self, predictions, references, average="macro"):
        return {f"{average}_f1": float(f1_score(references, predictions, average=average, zero_division=0))}


class _Translation(evaluate.Metric):
    """`references`: a list for each prediction, all of one length (sacrebleu itself wants the transposed list)."""

    def _info(self):
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=_TEXTS)

    def _compute(self, predictions, references):
        scorer = self.scorer()
        score = scorer.corpus_score(predictions, [list(column) for column in zip(*references, strict=True)])
        return {self.key: float(score.score), f"{self.key}_signature": str(scorer.get_signature())}


class Bleu(_Translation):
    """SacreBLEU with its signature: without the signature a BLEU score cannot be compared with anyone's."""

    key = "bleu"

    def scorer(self):
        from sacrebleu.metrics import BLEU
        return BLEU()


class Chrf(_Translation):
    """chrF2 with its signature: counts characters, so it forgives an inflection that BLEU does not."""

    key = "chrf"

    def scorer(self):
        from sacrebleu.metrics import CHRF
        return CHRF()
