"""The lecture's claims beside the records: every verdict is computed from data/results, by one
rule, none is typed.

    evidence, claims = findings.judge()
    claims[["claim", "verdict"]]

The claims are functions (`claims.py`); new records change the verdicts. The rule, `verdict`, looks
at the 95 % interval over seeds:

    supported         the whole interval lies where the claim says
    refuted           the whole interval lies on the other side
    undecided         it lies on both: `detectable` says how large an effect would have been seen
    not tested here   there are no two seeds that could say anything

A claim needs *all* its deciding questions, and supporting all of them by luck is rarer than one: no
correction is needed there. One question alone refutes it, so refutations are corrected for how many
questions were looked at (Holm). Three claims are no matter of seeds and are `given`: two estimates,
whose interval is the tolerance that tests hold them to, and a definition. No torch here.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ..paths import DATA
from . import results, statistics
from .claims import CLAIMS, Ask, Evidence
from .stored import Missing, Stored

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"
UNTESTED = "not tested here"
VERDICTS = (SUPPORTED, REFUTED, UNDECIDED, UNTESTED)
# What "severely", "fails" and "as good as" mean, in points, unless the reader says otherwise.
THRESHOLDS = {"severe": 5.0, "fails": 10.0, "margin": 1.0}
# The teachers that ship, with their folder or file below data/teachers.
TEACHERS = {
    "MiniNLI": "mini_nli",
    "MiniQQP": "mini_qqp",
    "MiniParl": "miniparl",
    "MNLI": "mnli_logits.safetensors",
    "QQP": "qqp_logits.safetensors",
    "Europarl": "smollm2",
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
        holds, is_refuted = low > above, high < above
    elif below is not None:
        holds, is_refuted = high < below, low > below
    else:
        holds, is_refuted = high <= at_most, low > at_most
    if holds:
        return SUPPORTED
    return REFUTED if is_refuted else UNDECIDED


def judge(
    claims: list[dict] | None = None, *, stored: Stored | None = None, **thresholds: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(evidence, claims). evidence: a row a question, with mean, low, high, n, minutes, verdict,
    missing. claims: a row a claim.

    thresholds: `severe`, `fails`, `margin`. A question whose record is missing is named in its row, and the
    others are judged; `_judge_one` says how a claim is judged.
    """
    ask = Ask(stored or Stored("laptop"), THRESHOLDS | thresholds)
    rows, verdicts = [], []
    for claim in load() if claims is None else claims:
        found = [_row(evidence, ask) for evidence in claim["evidence"](ask)]
        about = {name: claim[name] for name in ("id", "short", "claim")}
        verdicts.append(about | _judge_one(found) | _rest(claim, found))
        rows += [about | row for row in found]
    evidence = pd.DataFrame(rows).drop(columns=["seconds", "p"], errors="ignore")
    return evidence, pd.DataFrame(verdicts)


def _judge_one(found: list[dict]) -> dict:
    """One claim's verdict from its rows, which learn whether they `decide`.

    The deciding evidence is that from real rows where there is some, else from synthetic ones.
    Evidence that should be there and is lost leaves the claim untested, unless what is left refutes
    it: losing a record must not make a claim true.
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
    for_it = f"{yes} of {len(counted)}" if deciding else "–"
    return {"verdict": _together(deciding, len(counted)), "for it": for_it}


def _together(deciding: list[dict], wanted: int) -> str:
    """What the deciding rows say of their claim. wanted: with those whose records are lost."""
    stands = statistics.holm([row["p"] for row in deciding])
    if any(row["verdict"] == REFUTED and stood for row, stood in zip(deciding, stands)):
        return REFUTED
    if len(deciding) < wanted or not deciding:
        return UNTESTED
    if all(row["verdict"] == SUPPORTED for row in deciding):
        return SUPPORTED
    return UNDECIDED


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
    """mean, low, high, n and the verdict of one question by itself.

    `p`: of the question's side, for the correction; 0 where no seed is asked. `detectable`: the
    distance from the limit that these seeds would mostly have shown.
    """
    values = evidence.values
    mean, low, high, n = np.nan, np.nan, np.nan, len(values)
    p, seen_from = 0.0, np.nan
    if not values:
        answer = UNTESTED
    elif evidence.holds is not None:
        answer = SUPPORTED if evidence.holds else REFUTED
    elif evidence.tolerance:
        mean, n = values[0], 0
        low, high = mean * (1 - evidence.tolerance), mean * (1 + evidence.tolerance)
        answer = verdict(low, high, 2, **limits)  # the tolerance is tested, as if by repetition
    elif evidence.over_rows is not None:
        mean, low, high, n, _ = evidence.over_rows
        answer = verdict(low, high, n, **limits)
        p = statistics.p_of_interval(evidence.over_rows, next(iter(limits.values())))
    else:
        mean, low, high, n, _ = results.interval(values)
        answer = verdict(low, high, n, **limits)
        p = statistics.p_value(values, next(iter(limits.values())))
        seen_from = statistics.detectable(values)
    about = {"mean": mean, "low": low, "high": high, "n": n}
    return about | {"verdict": answer, "p": p, "detectable": seen_from}


def decisive(evidence: pd.DataFrame, claims: pd.DataFrame) -> pd.DataFrame:
    """Both tables of `judge` as the one that `figures.claims` draws: a row a claim.

    Beside a claim stands the one question that its verdict hangs on: of a supported claim the
    narrowest one, of a refuted one the clearest refutation, of an undecided one the question that
    came nearest to an answer.
    """
    rows = []
    for claim in claims.to_dict("records"):
        asked = evidence[(evidence["id"] == claim["id"]) & evidence["decides"]]
        asked = asked[asked["verdict"] == claim["verdict"]]
        row = {"short": claim["short"], "verdict": claim["verdict"], "rows": claim["rows"]}
        if len(asked):
            row |= _hangs_on(asked, claim["verdict"])
        rows.append(row)
    columns = ["short", "corpus", "what", "number", "rows", "verdict"]
    return pd.DataFrame(rows).reindex(columns=columns).fillna("")


def _hangs_on(asked: pd.DataFrame, verdict: str) -> dict:
    """Of a claim's deciding questions with its verdict, the one to tell, in words."""
    ends = [asked["sign"] * (asked[end] - asked["limit"]) for end in ("low", "high")]
    # how far the whole interval lies on the claim's side, and on the other side
    for_it = np.minimum(*ends)
    against_it = -np.maximum(*ends)
    if verdict == SUPPORTED:
        nearness = -for_it
    elif verdict == REFUTED:
        nearness = against_it
    else:
        nearness = np.maximum(for_it, against_it)
    nearness = nearness.dropna()
    row = asked.loc[nearness.idxmax() if len(nearness) else asked.index[0]]
    about = {"corpus": row["corpus"], "what": row["what"], "number": told(row)}
    if row["given"]:
        about["rows"] = "estimate" if np.isfinite(row["mean"]) else "definition"
    return about


def told(row) -> str:
    """One question's number as a person would say it: mean, interval, unit, and what was needed."""
    if not np.isfinite(row["mean"]):
        return str(row["unit"])
    interval = f"[{row['low']:.1f}, {row['high']:.1f}]".replace("-", "−")
    needed = ""
    if row["limit"]:
        needed = f"; {'>' if row['sign'] > 0 else '<'} {row['limit']:g}"
    return f"{row['mean']:+.1f} ".replace("-", "−") + f"{interval} {row['unit']}{needed}"


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


# -- what a notebook prints ----------------------------------------------------------------------


def lines(evidence: pd.DataFrame) -> list[str]:
    """Every question of every claim in words; `*` marks what decides, what is missing is named."""
    written = []
    for short, part in evidence.groupby("short", sort=False):
        written.append(short)
        for row in part.to_dict("records"):
            mark = "*" if row["decides"] else " "
            answer = row["missing"] or _answered(row)
            written.append(f"  {mark} {row['corpus']:15.15s} {row['what']:30.30s} {answer}")
    return written


def _answered(row: dict) -> str:
    if not np.isfinite(row["low"]):
        return told(row) if row["given"] else f"{row['mean']:+.2f} {row['unit']}, one seed"
    if row["given"]:
        return f"{told(row)} (± 15 %)"
    answer = f"{told(row)}, n = {row['n']}: {row['verdict']}"
    if row["verdict"] == UNDECIDED:
        answer += f", would have shown {row['detectable']:.1f}"
    return answer


def bill() -> pd.DataFrame:
    """What all stored records cost, and their teachers: a row a file.

    `minutes` are processor time where records know it, as a clock also counts what else a machine
    does. Older records and teachers have the clock alone; `time` says which of the two it is.
    """
    from . import teachers  # it needs torch, and only the bill needs it

    rows = []
    for path in sorted((DATA / "results").glob("*/*.json")):
        kept = Stored(path.stem).records(path.parent.name)
        rows.append(
            {
                "notebook": path.parent.name,
                "records": path.stem,
                "runs": len(kept),
                "seeds": len({run["seed"] for run in kept}),
                "minutes": round(sum(map(_seconds, kept)) / 60, 1),
                "time": " + ".join(sorted({_measured_by(run) for run in kept})),
                "most GB": max(run.get("peak_gb", 0) for run in kept),
            }
        )
    for name, place in TEACHERS.items():
        minutes = teachers.about(f"data/teachers/{place}")["minutes"]
        rows.append(
            {
                "notebook": "teacher",
                "records": name,
                "runs": 1,
                "seeds": 1,
                "minutes": minutes,
                "time": "clock",
            }
        )
    return pd.DataFrame(rows)


def _measured_by(run: dict) -> str:
    return "processor" if run.get("processor_seconds") else "clock"


def _seconds(run: dict) -> float:
    """A run that went on later counts only its last part in `seconds`: its stages know the rest."""
    if run.get("processor_seconds"):
        return max(run["processor_seconds"], sum(run.get("stage_processor_seconds", {}).values()))
    return max(run.get("seconds") or 0, sum(run.get("stage_seconds", {}).values()))
