// What the two parts of the loss do to each logit of a student. A push is minus the gradient.

const PLOT = { left: 50, right: 450, top: 34, bottom: 250 };
const WIDTH = 30; // of a bar

// alpha · T² · KL has the gradient alpha · T² · (q − p) / T at the student's logits.
function softPushes(student, alpha, T, squares) {
  const p = softmax(DATA.teacher, T);
  const q = softmax(student, T);
  return p.map((share, i) => ((alpha * squares) / T) * (share - q[i]));
}

function hardPushes(student, alpha) {
  const q = softmax(student, 1);
  return q.map((share, i) => (1 - alpha) * ((i === DATA.label ? 1 : 0) - share));
}

function size(pushes) {
  return pushes.reduce((sum, push) => sum + Math.abs(push), 0);
}

// The same scale wherever the sliders stand, so that a small push looks small.
const REACH =
  1.12 *
  Math.max(
    ...DATA.students.flatMap(({ logits }) => [
      ...hardPushes(logits, 0).map(Math.abs),
      ...DATA.temperatures.flatMap((T) => softPushes(logits, 1, T, T * T).map(Math.abs)),
    ]),
  );

function up(push) {
  const middle = (PLOT.top + PLOT.bottom) / 2;
  return middle - ((PLOT.bottom - PLOT.top) / 2) * (push / REACH);
}

function bar(svg, x, push, look) {
  const y = Math.min(up(push), up(0));
  draw(svg, "rect", { x, y, width: WIDTH, height: Math.abs(up(push) - up(0)), ...look });
}

// The three kinds of bar: full, hollow and dashed, so that they differ in grey, too.
const LOOKS = {
  soft: { fill: DATA.colors.soft },
  hard: { fill: "white", stroke: DATA.colors.hard, "stroke-width": 2.5 },
  right: { fill: "none", stroke: DATA.colors.soft, "stroke-dasharray": "3 2" },
};

function drawLegend(svg, forget) {
  const entries = { soft: "soft loss", hard: "hard loss" };
  if (forget) {
    entries.right = "soft loss with T²";
  }
  Object.entries(entries).forEach(([kind, name], i) => {
    const x = PLOT.left + 10 + 100 * i;
    draw(svg, "rect", { x, y: 6, width: 14, height: 14, ...LOOKS[kind] });
    draw(svg, "text", { x: x + 20, y: 18 }, name);
  });
  const x = PLOT.left + (forget ? 362 : 217);
  draw(svg, "circle", { cx: x, cy: 13, r: 5, fill: "black" });
  draw(svg, "text", { x: x + 10, y: 18 }, "together");
}

function drawPushes(svg, soft, hard, right) {
  const { left, right: end, bottom } = PLOT;
  draw(svg, "line", { x1: left, x2: end, y1: up(0), y2: up(0), stroke: "black" });
  for (const push of [-0.5, 0, 0.5].filter((value) => Math.abs(value) < REACH)) {
    const look = { x: left - 6, y: up(push) + 4, "text-anchor": "end" };
    draw(svg, "text", look, signed(push, 1));
  }
  const step = (end - left) / soft.length;
  soft.forEach((push, i) => {
    const x = left + (i + 0.5) * step;
    const look = { x, y: bottom + 18, "text-anchor": "middle" };
    const role = i === DATA.label ? " (the label)" : "";
    bar(svg, x - WIDTH - 2, push, LOOKS.soft);
    bar(svg, x - WIDTH - 2, right[i], LOOKS.right); // hidden unless T² is forgotten
    bar(svg, x + 2, hard[i], LOOKS.hard);
    draw(svg, "circle", { cx: x, cy: up(push + hard[i]), r: 5, fill: "black" });
    draw(svg, "text", look, DATA.classes[i] + role);
  });
  const look = { x: left, y: bottom + 37 };
  draw(svg, "text", look, "push on the student’s logit (minus the gradient)");
}

function signed(push, digits) {
  const number = Math.abs(push).toFixed(digits);
  if (Number(number) === 0) {
    return number;
  }
  return (push < 0 ? "−" : "+") + number;
}

// "A +0.33, B −0.17"
function pushesInWords(pushes) {
  return pushes.map((push, i) => `${DATA.classes[i]} ${signed(push, 2)}`).join(", ");
}

function redraw() {
  const alpha = Number(part("alpha").value);
  tell(part("alpha"), `alpha = ${alpha}`);
  const T = temperature();
  const forget = part("forget").checked;
  const student = DATA.students[part("student").value].logits;
  const right = softPushes(student, alpha, T, T * T);
  const soft = forget ? softPushes(student, alpha, T, 1) : right;
  const hard = hardPushes(student, alpha);
  const share = (pushes) => percent(size(pushes) / (size(pushes) + size(hard)));
  const svg = cleared(
    `Pushes at alpha = ${alpha}, T = ${T}${forget ? ", without T²" : ""}. ` +
      `Soft loss: ${pushesInWords(soft)}. Hard loss: ${pushesInWords(hard)}. ` +
      `Together: ${pushesInWords(soft.map((push, i) => push + hard[i]))}.`,
  );
  drawLegend(svg, forget);
  drawPushes(svg, soft, hard, right);
  classNames(svg, 552, 20);
  answer(svg, 560, 20, 150, `teacher at T = ${T}`, softmax(DATA.teacher, T), DATA.colors.teacher);
  classNames(svg, 552, 150);
  answer(svg, 560, 150, 150, `student at T = ${T}`, softmax(student, T), DATA.colors.label);
  part("status").textContent =
    `${share(soft)} of the push comes from the soft loss` +
    (forget ? `; with T² it would be ${share(right)}.` : ".");
}

DATA.students.forEach(({ name }, i) => part("student").append(new Option(name, i)));
part("alpha").value = DATA.alpha;
prepareTemperature(DATA.start);
part("student").addEventListener("change", redraw);
for (const name of ["alpha", "T", "forget"]) {
  part(name).addEventListener("input", redraw);
}
redraw();
