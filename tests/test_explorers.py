"""Explorers as text: what they carry, and that no row's text can break out. test_browser moves them."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kdlib import explorers, votes

ROWS = pd.DataFrame(
    {
        "premise": ["A </script><script>alert(1)</script>", "B <!-- ", "C"],
        "hypothesis": ["D", "E", "F"],
        "label": [0, 1, 2],
        "truth": [np.array(p) for p in ([0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.0, 0.5, 0.5])],
        "logits": [np.array(z) for z in ([2.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 3.0, 1.0])],
    }
)
ALL = {
    "rows": lambda: explorers.row_browser(ROWS, whose="</p>truth"),
    "valley": lambda: explorers.valley(ROWS, whose="truth", smoothed=0.3),
    "pushes": lambda: explorers.pushes([3.0, 1.0, 0.0]),
    "temperature": lambda: explorers.temperature(np.log([16, 4, 1])),
}


def data(name: str) -> dict:
    return json.loads(re.search(r"^const DATA = (.*);$", ALL[name]().data, re.MULTILINE)[1])


@pytest.mark.parametrize("name", ALL)
def test_one_script_that_no_text_can_end(name):
    page = ALL[name]().data
    assert page.count("<script>") == page.count("</script>") == 1 and "<!--" not in page
    before, script = page.split("<script>")
    assert "Here is an explorer: " in before and "</p>truth" not in before
    assert script.rstrip().endswith("</script>\n</div>")
    assert page == ALL[name]().data, "the same bytes for the same data"
    assert len(page) < 20_000, "a few kilobytes"


def test_the_valleys_curves_are_the_mean_kl_over_its_rows():
    curves = {curve["name"]: curve["kl"] for curve in data("valley")["curves"]}
    at_one = data("valley")["temperatures"].index(1.0)
    odds = np.exp(np.stack(ROWS["logits"]))
    kl = votes.kl(np.stack(ROWS["truth"]), odds / odds.sum(-1, keepdims=True))
    assert curves["all rows"][at_one] == pytest.approx(kl.mean(), abs=1e-6)
    assert curves["teacher wrong"][at_one] == pytest.approx(kl[1], abs=1e-6)
    assert data("valley")["rows"]["right"] == [True, False, True]


def test_a_first_temperature_between_two_steps_takes_the_nearer_one():
    page = explorers.temperature([1.0, 0.0], classes="AB", start=3.0).data
    assert '"start":2.8' in page or '"start":3.2' in page


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError):
        explorers.temperature([np.nan, 0.0, 1.0])


def test_they_need_no_torch():
    code = "import sys; from kdlib import explorers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
