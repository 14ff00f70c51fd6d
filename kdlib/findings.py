"""The lecture's claims beside the records: every verdict is computed from data/results, by one rule, none is typed.

    evidence, claims = findings.judge()
    claims[["claim", "verdict"]]

The claims and their queries are data (`claims.yaml`); new records change the verdicts. The rule, `verdict`: supported if the whole
95 % interval over seeds lies where the claim says; not supported otherwise; not tested here without two seeds that could say so. Three
claims are no matter of seeds and are `given`: two estimates, whose interval is the tolerance that tests hold them to, and a definition.
No torch here.
"""
import fnmatch
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from .course import results
from .gallery import Missing, Stored

SUPPORTED, NOT, UNTESTED = "supported", "not supported", "not tested here"
THRESHOLDS = {"severe": 5.0, "fails": 10.0}            # what "severely" and "fails" mean, in points, unless the reader says otherwise


def load(path: Path | None = None) -> list[dict]:
    """The claims as data, from `claims.yaml` or another file of its form. ValueError for a claim without what it needs."""
    text = path.read_text(encoding="utf8") if path else (resources.files("kdlib") / "claims.yaml").read_text(encoding="utf8")
    claims = yaml.safe_load(text)
    for claim in claims:
        if missing := [k for k in ("id", "short", "claim", "reading", "evidence") if k not in claim]:
            raise ValueError(f"claim {claim.get('id', claim)!r} lacks {', '.join(missing)}")
    return claims


def verdict(low: float, high: float, n: int, *, above: float | None = None, below: float | None = None, at_most: float | None = None) -> str:
    """The rule. `n`: seeds (or other repetitions) behind the interval from `low` to `high`."""
    if n < 2:
        return UNTESTED
    holds = low > above if above is not None else high < below if below is not None else high <= at_most
    return SUPPORTED if holds else NOT


def judge(claims: list[dict] | None = None, *, stored: Stored | None = None, **thresholds: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(evidence, claims). evidence: a row a query, with mean, low, high, n, minutes, verdict, missing. claims: a row a claim.

    thresholds: `severe`, `fails`. A query whose record is missing is named in its row, and the others are judged. A claim is
    supported if all its deciding evidence is: that from real rows where there is some, else from synthetic ones. Evidence that should
    be there and is lost leaves the claim untested, unless what is left refutes it: losing a record must not make a claim true.
    """
    stored, rows, verdicts = stored or Stored("laptop"), [], []
    for claim in claims if claims is not None else load():
        found = [_evidence(claim, query, stored, THRESHOLDS | thresholds) for query in claim["evidence"]]
        counted = [e for e in found if not e["shown"] and (e["verdict"] != UNTESTED or (e["missing"] and not e["optional"]))]
        counted = [e for e in counted if e["real"]] or counted
        deciding = [e for e in counted if not e["missing"]]
        for e in found:
            e["decides"] = any(e is d for d in deciding)
        yes = sum(e["verdict"] == SUPPORTED for e in deciding)
        about = {"id": claim["id"], "short": claim["short"], "claim": claim["claim"]}
        rows += [about | e for e in found]
        verdicts.append(about | {
            "verdict": NOT if yes < len(deciding) else SUPPORTED if counted and yes == len(counted) else UNTESTED,
            "for it": f"{yes} of {len(counted)}" if deciding else "–",
            "rows": "–" if not deciding else "real" if deciding[0]["real"] else "given" if deciding[0]["given"] else "synthetic",
            "minutes": round(sum({k: v for e in deciding for k, v in e["used"].items()}.values()) / 60, 1), "reading": " ".join(claim["reading"].split()),
            "missing": "; ".join(sorted({e["missing"] for e in found if e["missing"]}))})
    return pd.DataFrame(rows).drop(columns="used", errors="ignore"), pd.DataFrame(verdicts)


def forest(evidence: pd.DataFrame, claims: pd.DataFrame) -> pd.DataFrame:
    """Both tables of `judge` as the one that `figures.claims` draws: a row a query, and one for a claim without any."""
    return claims.merge(evidence.drop(columns=["short", "claim"]), on="id", how="left", suffixes=("_of_claim", ""))[
        ["id", "short", "verdict_of_claim", "for it", "corpus", "what", "real", "given", "shown", "decides", "mean", "low", "high", "n", "limit", "sign", "unit", "verdict"]]


def _evidence(claim: dict, query: dict, stored: Stored, thresholds: dict) -> dict:
    """One query answered: where it stands, and what it says by itself."""
    limit = {k: float(thresholds.get(v, v)) for k, v in query.items() if k in ("above", "below", "at_most")}
    given = any(k in query for k in ("estimate", "spoken", "class"))                   # a number that no seed of ours stands behind
    row = {"corpus": query["corpus"], "what": query["what"], "real": query.get("real", False), "given": given, "shown": query.get("shown", False),
           "unit": query.get("unit", "points"), "limit": next(iter(limit.values()), np.nan), "sign": -1 if {"below", "at_most"} & set(limit) else 1,
           "records": query.get("records", "lecture"), "optional": query.get("optional", False), "minutes": 0.0, "missing": "", "used": {}}
    try:
        if "class" in query:
            names = _spoken(stored, query["class"])
            wrong = any(fnmatch.fnmatch(name, query["not"]) for name in names)
            return row | dict(mean=np.nan, low=np.nan, high=np.nan, n=len(names), unit=", ".join(names), verdict=NOT if wrong else SUPPORTED)
        if "spoken" in query:
            values, used = [_spoken(stored, query["spoken"]) * query.get("scale", 1)], []
        elif "estimate" in query:
            notebook, file = query["records"].split("/")
            table = stored.table(notebook, query["estimate"], file)
            value = next(r[query["metric"]] for r in table.to_dict("records") if _matches(r, query["a"]))
            return row | dict(mean=value, low=value * (1 - query["tolerance"]), high=value * (1 + query["tolerance"]), n=0,
                              verdict=verdict(value * (1 - query["tolerance"]), value * (1 + query["tolerance"]), 2, **limit))
        else:
            values, used = _by_seed(query, stored)
    except Missing as why:
        empty = dict(mean=np.nan, low=np.nan, high=np.nan, n=0, verdict=UNTESTED)
        return row | empty | {"missing": str(why)}
    found = results.interval(np.array(values) * (-1 if claim.get("mirror") else 1) + query.get("plus", 0))
    return row | dict(mean=found.mean, low=found.low, high=found.high, n=found.n, verdict=verdict(found.low, found.high, found.n, **limit),
                      minutes=sum(r.get("seconds") or 0 for r in used) / 60, used={(query["records"], json.dumps(r["settings"], sort_keys=True), r["seed"]): r.get("seconds") or 0 for r in used})


def _spoken(stored: Stored, keys: list[str]):
    """A number, or a list of names, of the lecture's."""
    value = stored.lecture()
    for key in keys:
        value = value[key]
    return value


def _matches(row: dict, wanted: dict) -> bool:
    return all(fnmatch.fnmatchcase(row.get(k, ""), v) if isinstance(v, str) and isinstance(row.get(k, ""), str) else row.get(k) == v for k, v in wanted.items())


def _by_seed(query: dict, stored: Stored) -> tuple[list[float], list[dict]]:
    """One number a seed, and the records that it came from. Missing when no seed has all that the query needs."""
    notebook, file = query["records"].split("/")
    records = stored.records(notebook, file)
    runs = [{"seed": r["seed"], **r["settings"], **r["results"], "record": r} for r in records]
    if "listed" in query:
        listed = lambda name: [{"seed": r["seed"], "record": r, **item} for r in records for item in r["results"].get(name, [])]
        runs = listed(query["listed"])
    metric = query.get("gap") or query.get("slope") or query["metric"]
    a, b, zero = _pick(runs, query.get("a")), _pick(listed(query["b_listed"]) if "b_listed" in query else runs, query.get("b")), _pick(runs, query.get("zero"))
    scale, found = query.get("scale", 1), {}
    for seed in sorted({r["seed"] for r in a}):
        one, two, at_0 = ([r for r in part if r["seed"] == seed] for part in (a, b, zero))
        if (query.get("b") and not two) or (query.get("zero") and not at_0):
            continue
        if "slope" in query:
            points = pd.DataFrame({"x": [r[query["over"]] for r in one] + [0.0] * len(at_0), "y": [r[metric] for r in one + at_0]})
            mean = points.groupby("x")["y"].mean()              # each value of the setting counts once, as in notebook 05
            if len(mean) > 1:
                found[seed] = scale * np.polyfit(mean.index, mean, 1)[0]
        else:
            found[seed] = scale * (np.mean([r[metric] for r in one]) - (np.mean([r[query.get("b_metric", metric)] for r in two]) if two else 0))
    if not found:
        raise Missing(f"data/results/{query['records']}.json has no runs for {query['what']!r}")
    used = {id(r["record"]): r["record"] for r in a + b + zero}
    return list(found.values())[:1 if query.get("one_model") else None], list(used.values())


def refuse_lost(evidence: pd.DataFrame) -> None:
    """Missing, which names each record that a verdict wanted and did not find; what is optional may come later."""
    if lost := sorted(set(evidence["missing"][(evidence["missing"] != "") & ~evidence["optional"]])):
        raise Missing("; ".join(lost) + ": the verdicts that need it are not given")


def _pick(runs: list[dict], wanted: dict | None) -> list[dict]:
    """The runs with the wanted settings. A learning rate may be max, middle or min of the file; top: the largest of the kind asked for."""
    if wanted is None:
        return []
    wanted, rates = dict(wanted), sorted({r["learning_rate"] for r in runs if "learning_rate" in r})
    kind = wanted.get("learning_rate")
    if kind == "top":
        like = {k: v for k, v in wanted.items() if k != "learning_rate"}
        rates = sorted({r["learning_rate"] for r in runs if _matches(r, like) and _matches(r, {"lora_rank": 0})})
    if isinstance(kind, str) and rates:
        wanted["learning_rate"] = {"max": rates[-1], "top": rates[-1], "min": rates[0], "middle": rates[len(rates) // 2]}[kind]
    return [r for r in runs if _matches(r, wanted)]


METRICS = ("accuracy", "macro_f1", "ece", "bleu", "chrf", "student_accuracy", "accuracy, student", "KL, best T")


def yours(root: Path | None = None) -> pd.DataFrame:
    """My runs beside the reference runs with the same settings: inside the stated spread (two sd), outside, or not comparable."""
    rows = []
    for record in results.records(root=root):
        try:
            against = results.reference_records(record["notebook"], record["profile"])
        except FileNotFoundError:
            continue
        metrics = [m for m in METRICS if isinstance(record["results"].get(m), (int, float))]
        if metrics:
            found = results.compare(record, metrics, against)
            rows.append(found.assign(run=f"{record['notebook'][:2]} {record['profile']}, seed {record['seed']}"))
    return pd.concat(rows, ignore_index=True)[["run", "metric", "your run", "reference", "inside"]] if rows else pd.DataFrame()
