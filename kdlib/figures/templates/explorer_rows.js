// Rows to leaf through: guess the answer, then compare label, teacher and truth.

const { premise, hypothesis, label, logits, truth } = DATA.rows; // columns, a row each
const places = label.map((_, row) => row);
const doubt = truth.map(entropy);
const ORDERS = {
  all: places,
  disputed: places.toSorted((a, b) => doubt[b] - doubt[a]),
  differ: places.filter((row) => firstChoice(logits[row]) !== firstChoice(truth[row])),
};
const guessed = new Map(); // {row: the class that the reader chose first}
let place = 0;

function rowsInOrder() {
  return ORDERS[part("order").value];
}

// The top class keeps its probability; all others share the rest evenly.
function wiped(p) {
  const top = firstChoice(p);
  const others = p.reduce((sum, share, i) => sum + (i === top ? 0 : share), 0);
  return p.map((share, i) => (i === top ? share : others / (p.length - 1)));
}

function redraw() {
  const row = rowsInOrder()[place];
  const hidden = part("first").checked && !guessed.has(row);
  part("place").textContent = `row ${place + 1} of ${rowsInOrder().length.toLocaleString("en")}`;
  part("premise").textContent = premise[row];
  part("hypothesis").textContent = hypothesis[row];
  root.querySelectorAll("[data-class]").forEach((button) => {
    const chosen = guessed.get(row) === Number(button.dataset.class);
    button.setAttribute("aria-pressed", chosen);
  });
  const T = temperature();
  if (hidden) {
    drawHidden();
  } else {
    drawAnswers(row, T);
  }
  drawScore();
}

function drawHidden() {
  const words = `Label, teacher and ${DATA.whose} are hidden until you guess.`;
  const svg = cleared(words);
  draw(svg, "text", { x: 380, y: 60, "text-anchor": "middle", fill: "#595959" }, words);
  part("status").textContent = "Choose an answer, or untick “guess first”.";
}

function drawAnswers(row, T) {
  const soft = softmax(logits[row], T);
  const wipe = part("wipe").checked;
  const shown = wipe ? wiped(soft) : soft;
  const hard = DATA.classes.map((_, i) => (i === label[row] ? 1 : 0));
  const teacher = `teacher at T = ${T}${wipe ? ", wiped" : ""}`;
  const people = truth[row];
  const svg = cleared(
    `Label: ${DATA.classes[label[row]]}. The ${teacher}: ${inWords(shown)}. ` +
      `${DATA.whose}: ${inWords(people)}.`,
  );
  const width = 150;
  classNames(svg, 102, 0);
  answer(svg, 110, 0, width, "label", hard, DATA.colors.label);
  answer(svg, 330, 0, width, teacher, shown, DATA.colors.teacher);
  answer(svg, 550, 0, width, DATA.whose, people, DATA.colors.truth);
  const before = wipe ? ` (${nats(kl(people, soft))} with its dark knowledge)` : "";
  part("status").textContent =
    `KL(${DATA.whose} ‖ ${teacher}) = ${nats(kl(people, shown))} nats${before}. ` +
    `Entropy: teacher ${nats(entropy(shown))}, ${DATA.whose} ${nats(doubt[row])} nats.`;
}

function drawScore() {
  const rows = [...guessed.keys()];
  const share = (choice) => {
    const same = rows.filter((row) => choice(row) === firstChoice(truth[row]));
    return `${same.length} of ${rows.length}`;
  };
  part("score").textContent = rows.length
    ? `Same first choice as the ${DATA.whose}: you ${share((row) => guessed.get(row))}, ` +
      `label ${share((row) => label[row])}, ` +
      `teacher ${share((row) => firstChoice(logits[row]))}.`
    : "";
}

// Room for the longest sentences (three lines at most), so that nothing jumps from row to row.
function lines(texts) {
  const longest = Math.max(...texts.map((text) => text.length));
  return Math.min(3, Math.ceil(longest / 90));
}

function go(to) {
  const count = rowsInOrder().length;
  place = (to + count) % count;
  redraw();
}

function guess(choice) {
  const row = rowsInOrder()[place];
  if (!guessed.has(row)) {
    guessed.set(row, choice);
  }
  redraw();
}

DATA.classes.forEach((name, i) => {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.class = i;
  button.textContent = name;
  button.addEventListener("click", () => guess(i));
  part("guesses").append(button);
});
const differ = root.querySelector("option[value=differ]");
differ.textContent = `teacher and ${DATA.whose} disagree`;
differ.disabled = ORDERS.differ.length === 0;
part("texts").style.minHeight = `${1.75 * (lines(premise) + lines(hypothesis))}em`;
prepareTemperature(DATA.start);
part("order").addEventListener("change", () => go(0));
part("previous").addEventListener("click", () => go(place - 1));
part("next").addEventListener("click", () => go(place + 1));
part("random").addEventListener("click", () => {
  const others = Math.max(1, rowsInOrder().length - 1);
  go(place + 1 + Math.floor(Math.random() * others)); // never the same row twice running
});
for (const name of ["T", "wipe", "first"]) {
  part(name).addEventListener("input", redraw);
}
redraw();
