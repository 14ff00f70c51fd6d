// One answer under a slider for T: how its bars flatten.

function redraw() {
  const T = temperature();
  const p = softmax(DATA.logits, T);
  const svg = cleared(`The answer at T = ${T}: ${inWords(p)}.`);
  const left = 30 + 7.5 * Math.max(...DATA.classes.map((name) => name.length));
  classNames(svg, left - 8, 0);
  answer(svg, left, 0, 690 - left, `softmax(logits / T) at T = ${T}`, p, DATA.colors.teacher);
  const most = nats(Math.log(p.length));
  part("status").textContent =
    `Entropy ${nats(entropy(p))} nats, of at most log ${p.length} = ${most}.`;
}

prepareTemperature(DATA.start);
part("T").addEventListener("input", redraw);
redraw();
