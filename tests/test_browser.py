"""The explorers in a real JupyterLab, moved by keyboard and mouse in a real Chromium.

One notebook is run once. Its last cell keeps the kernel busy until a file appears, so the explorers
are first tried beside a kernel that cannot answer, then from the saved notebook without any kernel,
then in a copy that is not trusted. No test looks at pixels or times, and none sleeps: they wait for
conditions. Runs with `pip install -e ".[browser]"` and a Chromium of the system.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import numpy as np
import pytest

from kdlib import explorers, figures, votes

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright (pip install kdlib[browser])"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)"),
]
ROOT = Path(__file__).parent.parent
SECONDS = 120  # the longest that anything is waited for
sync_api.expect.set_options(timeout=1000 * SECONDS)
SIZES = [(1280, 800), (1920, 1080)]
# The question about news covers a corner; the debugger complains of a kernel that is shut down.
UNWANTED = ["@jupyterlab/apputils-extension:announcements", "@jupyterlab/debugger-extension"]
NOTEBOOK = "window.jupyterapp.shell.currentWidget"
KERNEL = f"{NOTEBOOK}.sessionContext.session?.kernel"
OPEN = ".jp-NotebookPanel:not(.lm-mod-hidden)"  # the notebook in the tab that is in front
NAMES = ["rows", "valley", "pushes", "temperature"]

SETUP = """
import time
from pathlib import Path
import numpy as np
import pandas as pd
from kdlib import explorers, figures, widgets
long = "A sentence that is as long as the longest of the real rows, " * 5
rows = pd.DataFrame({
    "premise": ["It costs $5 & <b>more</b>.</script><script>throw 1</script>", long, "C."],
    "hypothesis": ["It costs $9.", long, "D."],
    "label": [1, 0, 2],
    "truth": [np.array(p) for p in ([0.1, 0.7, 0.2], [0.5, 0.4, 0.1], [0.0, 0.0, 1.0])],
    "logits": [np.array(z) for z in ([-1.0, 2.0, 0.5], [0.0, 3.0, -2.0], [-4.0, -4.0, 9.0])],
})
odds = np.log([16, 4, 1])
"""
FIGURE = """
figures.style()
figures.show(figures.softening(widgets.softened(odds, [1, 2])), figures.softening.alt)
"""
CELLS = [
    SETUP,
    'explorers.row_browser(rows, whose="100 people")',
    'explorers.valley(rows, whose="true distribution", smoothed=0.2)',
    "explorers.pushes(odds)",
    "explorers.temperature(odds)",
    FIGURE,
    'while not Path("go").exists():\n    time.sleep(0.05)\nprint("kernel was busy")',
]


# -- a Lab, a browser, a notebook ------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(address with a place for the file, folder) of a Lab on loopback with folders of its own."""
    home, folder = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("notebooks")
    token = secrets.token_hex()
    own = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    page_config = home / "CONFIG" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    page_config.write_text(json.dumps({"disabledExtensions": dict.fromkeys(UNWANTED, True)}))
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
        "--allow-root", "--expose-app-in-browser", f"--notebook-dir={folder}",
        f"--IdentityProvider.token={token}",
    ]  # fmt: skip
    environment = os.environ | own
    environment.pop("MPLBACKEND", None)  # a kernel has its own, which shows figures
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = []
    for line in server.stdout:  # ends where the server ends
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            break
    else:
        pytest.fail("JupyterLab did not start:\n" + "".join(said))
    # whoever writes into a full pipe stands still
    threading.Thread(target=server.stdout.read, daemon=True).start()
    yield f"{found[0]}/lab?token={token}&reset", folder
    server.terminate()
    server.wait(SECONDS)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium.new_context(viewport=dict(zip(("width", "height"), SIZES[0])))
        chromium.close()


def new_page(browser, lab):
    """JupyterLab in a page; what its console or its scripts complain of is in `.faults`."""
    page = browser.new_page()
    page.set_default_timeout(1000 * SECONDS)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.faults.append(said.text))
    page.goto(lab[0])
    page.wait_for_function("window.jupyterapp")
    page.evaluate("() => window.jupyterapp.restored")
    return page


def open_notebook(page, file: str) -> None:
    """Open it in a tab of its own, and wait until its kernel has started."""
    command(page, "docmanager:open", {"path": file, "factory": "Notebook"})
    page.wait_for_function(f"{NOTEBOOK}?.context?.path === '{file}' && {KERNEL}?.status === 'idle'")


def command(page, name: str, arguments: dict | None = None) -> None:
    """One of JupyterLab's commands, begun; what it leads to is waited for elsewhere."""
    run = "([name, arguments]) => void window.jupyterapp.commands.execute(name, arguments)"
    page.evaluate(run, [name, arguments or {}])


@pytest.fixture(scope="module")
def busy(lab, browser):
    """The notebook, run down to the last cell, which runs until the file `go` is there."""
    code = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nb = nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernel})
    nbformat.write(nb, lab[1] / "explorers.ipynb")
    page = new_page(browser, lab)
    open_notebook(page, "explorers.ipynb")
    command(page, "notebook:run-all-cells")
    sync_api.expect(explorer(page, "temperature").get_by_role("slider")).to_be_visible()
    return page


@pytest.fixture(scope="module")
def alone(busy, lab, browser):
    """The notebook, saved, closed and opened again; its kernel is shut down."""
    (lab[1] / "go").touch()
    sync_api.expect(busy.get_by_text("kernel was busy", exact=True)).to_be_visible()
    command(busy, "docmanager:save")
    busy.wait_for_function(f"!{NOTEBOOK}.context.model.dirty")
    busy.close()
    page = new_page(browser, lab)
    open_notebook(page, "explorers.ipynb")
    page.evaluate(f"() => {NOTEBOOK}.sessionContext.shutdown()")
    return page


def explorer(page, name: str):
    return page.locator(OPEN).locator(".kd-explorer").nth(NAMES.index(name))


# -- they move -------------------------------------------------------------------------------------


def shown(box) -> tuple[str, str]:
    """What a reader sees of an explorer, and what a screen reader says of its picture."""
    picture = box.get_by_role("img")
    return picture.inner_html(), picture.get_attribute("aria-label")


def moves(box, act) -> None:
    """`act` changes the picture and its words."""
    picture, words = shown(box)
    act()
    sync_api.expect(box.get_by_role("img")).not_to_have_attribute("aria-label", words)
    assert shown(box)[0] != picture


def try_everything(box) -> None:
    """Every slider, box and list of an explorer, by keyboard and by mouse."""
    for slider in box.get_by_role("slider").all():
        name = slider.get_attribute("data-part")
        for key in ("End", "ArrowLeft", "Home", "ArrowRight"):
            moves(box, lambda: slider.press(key))
        width = slider.bounding_box()["width"]
        moves(box, lambda: slider.click(position={"x": 0.7 * width, "y": 8}))
        moves(box, lambda: slider.press("ArrowLeft"))  # a click has left the focus here
        value = slider.get_attribute("aria-valuetext")
        assert re.fullmatch(rf"{name} = \d+(\.\d+)?", value)
        assert box.locator(f"[data-part={name}-value]").inner_text() == value
    for tick in box.locator("[type=checkbox]:not([data-part=first])").all():  # a guess is made
        moves(box, lambda: tick.press("Space"))
        moves(box, lambda: tick.click())
    for choice in box.get_by_role("combobox").all():
        last = choice.locator("option:enabled").last.get_attribute("value")
        moves(box, lambda: choice.select_option(last))


def try_all(page) -> None:
    """All four, with a guess where one is asked for; the page complains of nothing."""
    rows = explorer(page, "rows")
    sync_api.expect(rows.get_by_role("img")).to_have_attribute("aria-label", re.compile("hidden"))
    moves(rows, lambda: rows.get_by_role("button", name="neutral").click())
    for name in NAMES:
        explorer(page, name).scroll_into_view_if_needed()
        try_everything(explorer(page, name))
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.faults == []


def test_they_move_while_the_kernel_is_busy(busy):
    try_all(busy)
    assert busy.evaluate(f"{KERNEL}.status") == "busy"


def test_they_move_in_a_saved_notebook_without_a_kernel(alone):
    try_all(alone)
    assert alone.evaluate(f"{KERNEL} ?? null") is None


def test_rows_are_guessed_first_and_leafed_through_by_keyboard(alone):
    rows = explorer(alone, "rows")
    place, score = rows.locator("[data-part=place]"), rows.locator("[data-part=score]")
    rows.get_by_role("combobox").select_option("all")
    rows.get_by_role("checkbox", name="guess first").check()
    rows.get_by_role("button", name="Next").press("Enter")
    sync_api.expect(place).to_have_text("row 2 of 3")
    for key, where in (("Enter", "row 3"), ("Space", "row 1")):
        rows.get_by_role("button", name="Next").press(key)
        sync_api.expect(place).to_have_text(f"{where} of 3")
    premise = rows.locator("[data-part=premise]").inner_text()
    assert premise == "It costs $5 & <b>more</b>.</script><script>throw 1</script>"
    rows.get_by_role("button", name="Previous").click()
    sync_api.expect(rows.get_by_role("status")).to_contain_text("Choose an answer")
    rows.get_by_role("button", name="entailment").press("Enter")
    sync_api.expect(rows.get_by_role("status")).to_contain_text("KL(100 people")
    assert score.inner_text().startswith("Same first choice as the 100 people: you ")


# -- their numbers ---------------------------------------------------------------------------------


def set_temperature(box, T: float) -> None:
    slider = box.get_by_role("slider", name="temperature T")
    slider.press("Home")
    while slider.get_attribute("aria-valuetext") != f"T = {T:g}":
        slider.press("ArrowRight")


def test_kl_entropy_and_pushes_are_those_of_numpy(alone):
    rows, pushes = explorer(alone, "rows"), explorer(alone, "pushes")
    rows.get_by_role("combobox").select_option("disputed")  # the second row leads
    rows.get_by_role("checkbox", name="guess first").uncheck()
    rows.get_by_role("checkbox", name="wipe").uncheck()
    set_temperature(rows, 2.4)
    people, teacher = np.array([0.5, 0.4, 0.1]), explorers._softmax([0.0, 3.0, -2.0], 2.4)
    words = rows.get_by_role("status").inner_text()
    assert f"= {votes.kl(people, teacher):.3f} nats" in words
    assert f"teacher {votes.entropy(teacher):.3f}, 100 people {votes.entropy(people):.3f}" in words
    rows.get_by_role("checkbox", name="wipe").check()
    rest = (1 - teacher[1]) / 2
    wiped = votes.kl(people, np.array([rest, teacher[1], rest]))
    assert f"= {wiped:.3f} nats" in rows.get_by_role("status").inner_text()

    pushes.get_by_role("combobox").select_option(label="believes in B")
    pushes.get_by_role("checkbox").uncheck()
    set_temperature(pushes, 4)
    pushes.get_by_role("slider", name="alpha").press("End")
    expected = slopes(np.array([0.0, 2.0, 0.0]), T=4.0, factor=16.0)
    assert f"Soft loss: {in_words(expected)}." in shown(pushes)[1]
    pushes.get_by_role("checkbox", name="forget T²").check()
    expected = slopes(np.array([0.0, 2.0, 0.0]), T=4.0, factor=1.0)
    assert f"Soft loss: {in_words(expected)}." in shown(pushes)[1]


def slopes(student, T: float, factor: float):
    """Minus the slope of factor · KL at each of the student's logits, by differences."""
    teacher = explorers._softmax(np.log([16, 4, 1]), T)
    step = 1e-4 * np.eye(3)
    up, down = explorers._softmax(student + step, T), explorers._softmax(student - step, T)
    return factor * (votes.kl(teacher, down) - votes.kl(teacher, up)) / 2e-4


def in_words(pushes) -> str:
    return ", ".join(f"{name} {push:+.2f}".replace("-", "−") for name, push in zip("ABC", pushes))


# -- they can be read ------------------------------------------------------------------------------

# What is cut off, lies over something else, or has no name, in words.
BLEMISHES = """
box => {
  const found = [];
  const inside = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1
    && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
  const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  const frame = box.getBoundingClientRect();
  if (!inside(frame, box.closest(".jp-OutputArea").getBoundingClientRect())) {
    found.push("the explorer is wider than its cell");
  }
  if (frame.height > 0.75 * innerHeight) found.push(`it is ${frame.height} px high`);
  const picture = box.querySelector("svg");
  const check = (kind, elements, within) => elements.forEach((one, i) => {
    const here = one.getBoundingClientRect(), name = one.textContent || one.dataset.part;
    if (!inside(here, within)) found.push(`${kind} “${name}” is cut`);
    for (const other of elements.slice(i + 1)) {
      if (meet(here, other.getBoundingClientRect())) {
        found.push(`${kind} “${name}” lies over “${other.textContent}”`);
      }
    }
  });
  check("text", [...picture.querySelectorAll("text")], picture.getBoundingClientRect());
  check("control", [...box.querySelectorAll("label, button, .value, p, svg")], frame);
  for (const control of box.querySelectorAll("input, select, button")) {
    const name = control.labels?.[0]?.textContent ?? control.textContent;
    if (!name.trim()) found.push(`${control.outerHTML} has no name`);
  }
  if (picture.getAttribute("aria-label").split(" ").length < 5) found.push("no alt text");
  return found;
}
"""


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_or_covered_or_without_a_name(alone, name, size):
    alone.set_viewport_size(dict(zip(("width", "height"), size)))
    box = explorer(alone, name)
    box.scroll_into_view_if_needed()
    for tick in box.get_by_role("checkbox").all():  # shows all there is to show
        tick.set_checked("guess" not in tick.evaluate("tick => tick.labels[0].textContent"))
    slider = box.get_by_role("slider", name="temperature T")
    for key in ("Home", "End", "PageDown"):
        slider.press(key)
        assert box.evaluate(BLEMISHES) == []


def test_a_figure_has_its_words_as_alt_text_and_as_a_caption(alone):
    picture = alone.locator(OPEN).locator(".jp-RenderedImage img")
    sync_api.expect(picture).to_have_attribute("alt", figures.softening.alt)
    caption = alone.locator(OPEN).get_by_text(f"Figure: {figures.softening.alt}")
    sync_api.expect(caption).to_be_visible()


def test_without_trust_a_sentence_stands_for_each(alone, lab):
    nb = nbformat.read(lab[1] / "explorers.ipynb", 4)
    nb.cells[-1].outputs[0]["text"] = "not what was signed"
    nbformat.write(nb, lab[1] / "stranger.ipynb")
    open_notebook(alone, "stranger.ipynb")
    boxes = alone.locator(OPEN).locator(".kd-explorer")
    sync_api.expect(boxes).to_have_count(len(NAMES))
    for box in boxes.all():
        sync_api.expect(box).to_contain_text(re.compile("Here is an explorer: .* It needs scripts"))
    assert boxes.get_by_role("slider").count() == 0 and alone.faults == []
