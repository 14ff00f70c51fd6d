// The valley of KL over T: one T for the mean over all rows and for the bars of one of them.

const { pair, right, logits, truth } = DATA.rows; // columns, a row each
const PLOT = { left: 46, right: 400, top: 30, bottom: 245 };
const T_FIRST = DATA.temperatures[0];
const T_LAST = DATA.temperatures.at(-1);
const fromOne = DATA.temperatures.findIndex((T) => T >= 1);
// The curve of wrong rows climbs steeply below T = 1: the rest decides how high the plot reaches.
const HIGHEST = 1.15 * Math.max(...DATA.curves.flatMap((curve) => curve.kl.slice(fromOne)));
let place = 0;

function across(T) {
  const share = Math.log(T / T_FIRST) / Math.log(T_LAST / T_FIRST);
  return PLOT.left + share * (PLOT.right - PLOT.left);
}

function up(value) {
  const share = Math.min(value / HIGHEST, 1);
  return PLOT.bottom - share * (PLOT.bottom - PLOT.top);
}

function line(svg, values, color, width, dashes) {
  const points = values.map((value, i) => `${across(DATA.temperatures[i])},${up(value)}`);
  const look = { fill: "none", stroke: color, "stroke-width": width, "stroke-dasharray": dashes };
  draw(svg, "polyline", { points: points.join(" "), ...look });
}

function drawAxes(svg) {
  const { left, right, top, bottom } = PLOT;
  const step = HIGHEST > 1.2 ? 0.5 : HIGHEST > 0.5 ? 0.2 : 0.1;
  for (let value = 0; value <= HIGHEST; value += step) {
    const y = up(value);
    draw(svg, "line", { x1: left, x2: right, y1: y, y2: y, stroke: "#dddddd" });
    draw(svg, "text", { x: left - 6, y: y + 4, "text-anchor": "end" }, value.toFixed(1));
  }
  for (let T = T_FIRST; T <= T_LAST; T *= 2) {
    const look = { x: across(T), y: bottom + 18, "text-anchor": "middle" };
    draw(svg, "text", look, String(T));
  }
  const middle = (left + right) / 2;
  draw(svg, "text", { x: middle, y: bottom + 38, "text-anchor": "middle" }, "temperature T");
  draw(svg, "text", { x: 4, y: top - 14 }, `KL(${DATA.whose} ‖ teacher at T), nats`);
}

// A curve's name stands at its right end; names that would touch are moved apart.
function drawNames(svg, curves) {
  let lowest = -Infinity;
  const ends = curves.map((curve) => ({ ...curve, y: up(curve.kl.at(-1)) + 4 }));
  for (const end of ends.toSorted((a, b) => a.y - b.y)) {
    lowest = Math.max(end.y, lowest + 15);
    const look = { x: PLOT.right + 6, y: lowest, style: `fill: ${end.color}` };
    draw(svg, "text", look, end.name);
  }
}

function drawCurves(svg, step, curves) {
  const x = across(DATA.temperatures[step]);
  for (const curve of curves) {
    line(svg, curve.kl, curve.color, 2, curve.dashes);
  }
  if (DATA.smoothed !== null) {
    const y = up(DATA.smoothed);
    const look = { y1: y, y2: y, stroke: "black", "stroke-dasharray": "2 3" };
    draw(svg, "line", { x1: PLOT.left, x2: PLOT.right, ...look });
    draw(svg, "text", { x: PLOT.left + 4, y: y - 5, class: "small" }, "label, smoothed at best");
  }
  draw(svg, "line", { x1: x, x2: x, y1: PLOT.top, y2: PLOT.bottom, stroke: "black" });
  for (const curve of curves) {
    draw(svg, "circle", { cx: x, cy: up(curve.kl[step]), r: 5, fill: curve.color });
  }
}

function redraw() {
  const step = Number(part("T").value);
  const T = temperature();
  const soft = softmax(logits[place], T);
  const ofRow = DATA.temperatures.map((t) => kl(truth[place], softmax(logits[place], t)));
  const curves = [...DATA.curves, { name: "this row", kl: ofRow, color: "#595959", dashes: "1 3" }];
  const numbers = curves.map((curve) => `${curve.name} ${nats(curve.kl[step])}`).join(", ");
  const judged = right[place] ? "right" : "wrong";
  part("place").textContent = `Row ${place + 1} of ${right.length}, where the teacher is ${judged}:`;
  part("pair").textContent = pair[place];
  part("status").textContent = `KL at T = ${T}, in nats: ${numbers}.`;
  const svg = cleared(
    `Curves of KL over T with a marker at T = ${T}: ${numbers} nats. ` +
      `This row: teacher ${inWords(soft)}; ${DATA.whose} ${inWords(truth[place])}.`,
  );
  drawAxes(svg);
  drawCurves(svg, step, curves);
  drawNames(svg, curves);
  classNames(svg, 590, 20);
  answer(svg, 598, 20, 110, `teacher at T = ${T}`, soft, DATA.colors.teacher);
  classNames(svg, 590, 150);
  answer(svg, 598, 150, 110, DATA.whose, truth[place], DATA.colors.truth);
}

function go(to) {
  place = (to + right.length) % right.length;
  redraw();
}

prepareTemperature(DATA.start);
part("T").addEventListener("input", redraw);
part("previous").addEventListener("click", () => go(place - 1));
part("next").addEventListener("click", () => go(place + 1));
redraw();
