"""The lecture's claims beside the records: every verdict is computed from data/results, by one
rule, none is typed.

    evidence, claims = findings.judge()
    claims[["claim", "verdict"]]

The claims are functions (`claims.py`); new records change the verdicts. The rule, `verdict`:
supported if the whole 95 % interval over seeds lies where the claim says; not supported otherwise;
not tested here without two seeds that could say so. Three claims are no matter of seeds and are
`given`: two estimates, whose interval is the tolerance that tests hold them to, and a definition.
No torch here.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ..paths import DATA
from . import results
from .claims import CLAIMS, Ask, Evidence
from .stored import Missing, Stored

SUPPORTED, NOT, UNTESTED = "supported", "not supported", "not tested here"
# What "severely" and "fails" mean, in points, unless the reader says otherwise.
THRESHOLDS = {"severe": 5.0, "fails": 10.0}
# The columns of both of `judge`'s tables that `figures.claims` draws.
OF_CLAIM = ["id", "short", "verdict_of_claim", "for it"]
OF_EVIDENCE = ["corpus", "what", "real", "given", "shown", "decides"]
OF_EVIDENCE += ["mean", "low", "high", "n", "limit", "sign", "unit", "verdict"]
# The teachers that ship, below data/teachers.
TEACHERS = {
    "MiniNLI": "mini_nli",
    "MiniQQP": "mini_qqp",
    "MiniParl": "miniparl",
    "MNLI": "mnli_logits.safetensors",
    "QQP": "qqp_logits.safetensors",
}


def load() -> list[dict]:
    """The claims: id, short, claim, reading, and `evidence`, the function that asks the records."""
    return [evidence.about | {"evidence": evidence} for evidence in CLAIMS]


def verdict(
    low: float,
    high: float,
    n: int,
    *,
    above: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> str:
    """The rule. `n`: seeds (or other repetitions) behind the interval from `low` to `high`."""
    if n < 2:
        return UNTESTED
    if above is not None:
        holds = low > above
    elif below is not None:
        holds = high < below
    else:
        holds = high <= at_most
    return SUPPORTED if holds else NOT


def judge(
    claims: list[dict] | None = None, *, stored: Stored | None = None, **thresholds: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(evidence, claims). evidence: a row a question, with mean, low, high, n, minutes, verdict,
    missing. claims: a row a claim.

    thresholds: `severe`, `fails`. A question whose record is missing is named in its row, and the
    others are judged; `_judge_one` says how a claim is judged.
    """
    ask = Ask(stored or Stored("laptop"), THRESHOLDS | thresholds)
    rows, verdicts = [], []
    for claim in load() if claims is None else claims:
        found = [_row(evidence, ask) for evidence in claim["evidence"](ask)]
        about = {name: claim[name] for name in ("id", "short", "claim")}
        verdicts.append(about | _judge_one(found) | _rest(claim, found))
        rows += [about | row for row in found]
    evidence = pd.DataFrame(rows).drop(columns="seconds", errors="ignore")
    return evidence, pd.DataFrame(verdicts)


def _judge_one(found: list[dict]) -> dict:
    """One claim's verdict from its rows, which learn whether they `decide`.

    A claim is supported if all its deciding evidence is: that from real rows where there is some,
    else from synthetic ones. Evidence that should be there and is lost leaves the claim untested,
    unless what is left refutes it: losing a record must not make a claim true.
    """
    counted = []
    for row in found:
        is_lost = row["missing"] and not row["optional"]
        if not row["shown"] and (row["verdict"] != UNTESTED or is_lost):
            counted.append(row)
    counted = [row for row in counted if row["real"]] or counted
    for row in found:
        row["decides"] = row in counted and not row["missing"]
    deciding = [row for row in found if row["decides"]]
    yes = sum(row["verdict"] == SUPPORTED for row in deciding)
    if yes < len(deciding):
        told = NOT
    else:
        told = SUPPORTED if counted and yes == len(counted) else UNTESTED
    return {"verdict": told, "for it": f"{yes} of {len(counted)}" if deciding else "–"}


def _rest(claim: dict, found: list[dict]) -> dict:
    """What a claim's row says beside its verdict: whose rows, what they cost, what is missing."""
    whose, seconds = [], {}
    for row in found:
        if row["decides"]:
            seconds |= row["seconds"]  # a run that two questions ask is paid once
            whose.append("real" if row["real"] else "given" if row["given"] else "synthetic")
    return {
        "rows": whose[0] if whose else "–",
        "minutes": round(sum(seconds.values()) / 60, 1),
        "reading": claim["reading"],
        "missing": "; ".join(sorted({row["missing"] for row in found if row["missing"]})),
    }


def _row(evidence: Evidence, ask: Ask) -> dict:
    """One question answered: where it stands, and what it says by itself."""
    corpus = evidence.corpus
    limits = {name: getattr(evidence, name) for name in ("above", "below", "at_most")}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    missing, seconds = "", {}
    if evidence.values:
        seconds = _bill(evidence.runs)
    else:
        nothing = f"data/results/{corpus.records}.json has no runs for {evidence.what!r}"
        missing = ask.missing.get(corpus.records, nothing)
    return {
        "corpus": corpus.name,
        "what": evidence.what,
        "real": corpus.real,
        "given": evidence.given,
        "shown": evidence.shown,
        "unit": evidence.unit,
        "limit": next(iter(limits.values()), np.nan),
        "sign": -1 if {"below", "at_most"} & set(limits) else 1,
        "records": corpus.records,
        "optional": corpus.optional,
        "minutes": sum(seconds.values()) / 60,
        "missing": missing,
        "seconds": seconds,
        **_answer(evidence, limits),
    }


def _bill(runs: pd.DataFrame) -> dict[tuple, float]:
    """(file, number of the run in it) → its seconds: each once, however many of its rows are
    there.
    """
    if runs.empty:
        return {}
    return {(file, i): took for file, i, took in zip(runs["records"], runs.index, runs["seconds"])}


def _answer(evidence: Evidence, limits: dict) -> dict:
    """mean, low, high, n and the verdict of one question by itself."""
    values = evidence.values
    mean, low, high, n = np.nan, np.nan, np.nan, len(values)
    if not values:
        answer = UNTESTED
    elif evidence.holds is not None:
        answer = SUPPORTED if evidence.holds else NOT
    elif evidence.tolerance:
        mean, n = values[0], 0
        low, high = mean * (1 - evidence.tolerance), mean * (1 + evidence.tolerance)
        answer = verdict(low, high, 2, **limits)  # the tolerance is tested, as if by repetition
    else:
        mean, low, high, n, _ = results.interval(values)
        answer = verdict(low, high, n, **limits)
    return {"mean": mean, "low": low, "high": high, "n": n, "verdict": answer}


def forest(evidence: pd.DataFrame, claims: pd.DataFrame) -> pd.DataFrame:
    """Both tables of `judge` as the one that `figures.claims` draws: a row a question, and one for
    a claim without any.
    """
    questions = evidence.drop(columns=["short", "claim"])
    both = claims.merge(questions, on="id", how="left", suffixes=("_of_claim", ""))
    return both[[*OF_CLAIM, *OF_EVIDENCE]]


def told(evidence: dict) -> str:
    """A row of evidence as a line; `*` marks what decides."""
    known = evidence["unit"]
    if not np.isnan(evidence["mean"]):
        interval = results.Difference(*(evidence[name] for name in results.Difference._fields))
        count = "estimate ± 15 %" if evidence["given"] else f"n = {evidence['n']}"
        known = f"{interval.told('+8.2f')} {known}, {count}"
    line = "{corpus:14.14s} {what:30.30s} ".format(**evidence) + (evidence["missing"] or known)
    return ("* " if evidence["decides"] else "  ") + line


def bill() -> pd.DataFrame:
    """What the course's own records and the teachers that ship took: one row a file.

    It loads torch, for `teachers` does.
    """
    from . import teachers

    rows = []
    for path in sorted((DATA / "results").glob("*/*.json")):
        kept = pd.DataFrame(Stored(path.stem).records(path.parent.name))
        # A run that went on later counts its last part alone; its stages know better.
        stages = kept["stage_seconds"].map(lambda seconds: sum(seconds.values()))
        minutes = kept["seconds"].clip(lower=stages).sum() / 60
        about = (path.parent.name, path.stem, len(kept), kept["seed"].nunique())
        rows.append((*about, round(minutes, 1), kept["peak_gb"].max()))
    for name, place in TEACHERS.items():
        minutes = teachers.about(f"data/teachers/{place}")["minutes"]
        rows.append(("teacher", name, 1, 1, minutes))
    columns = ["notebook", "records", "runs", "seeds", "minutes", "most GB"]
    return pd.DataFrame(rows, columns=columns)


def refuse_lost(evidence: pd.DataFrame) -> None:
    """Missing, which names each record that a verdict wanted and did not find; what is optional may
    come later.
    """
    is_lost = (evidence["missing"] != "") & ~evidence["optional"]
    if is_lost.any():
        lost = "; ".join(sorted(set(evidence["missing"][is_lost])))
        raise Missing(f"{lost}: the verdicts that need it are not given")


METRICS = ["accuracy", "macro_f1", "ece", "bleu", "chrf", "student_accuracy"]
METRICS += ["accuracy, student", "KL, best T"]


def yours(root: Path | None = None) -> pd.DataFrame:
    """My runs beside the reference runs with the same settings: inside the stated spread (two sd),
    outside, or not comparable.
    """
    tables = []
    for record in results.records(root=root):
        notebook, profile = record["notebook"], record["profile"]
        try:
            against = results.reference_records(notebook, profile)
        except FileNotFoundError:
            continue
        scores = record["results"]
        metrics = [name for name in METRICS if isinstance(scores.get(name), (int, float))]
        if metrics:
            run = f"{notebook[:2]} {profile}, seed {record['seed']}"
            tables.append(results.compare(record, metrics, against).assign(run=run))
    if not tables:
        return pd.DataFrame()
    columns = ["run", "metric", "your run", "reference", "inside"]
    return pd.concat(tables, ignore_index=True)[columns]
