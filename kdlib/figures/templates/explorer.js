// What all explorers share. `root` is the element they live in, DATA what Python has embedded,
// PAGE their controls. Everything is computed here: no kernel is asked.

root.innerHTML = PAGE; // our own markup; a row's text only ever goes in as textContent

// The element of the page that is called so: <… data-part="name">.
function part(name) {
  return root.querySelector(`[data-part="${name}"]`);
}

// JupyterLab takes arrow keys for shortcuts, unless the focused element forbids it.
root.addEventListener("focusin", (event) => {
  event.target.setAttribute("data-lm-suppress-shortcuts", "true");
});

// -- numbers ---------------------------------------------------------------------------------

function logSoftmax(logits, T) {
  const largest = Math.max(...logits);
  const scaled = logits.map((z) => (z - largest) / T); // at most 0, so exp cannot overflow
  const logSum = Math.log(scaled.reduce((sum, z) => sum + Math.exp(z), 0));
  return scaled.map((z) => z - logSum);
}

function softmax(logits, T) {
  return logSoftmax(logits, T).map(Math.exp);
}

function entropy(p) {
  return -p.reduce((sum, share) => sum + (share > 0 ? share * Math.log(share) : 0), 0);
}

// KL(p ‖ q) in nats. Where p is 0 nothing is counted: 0 · log 0 = 0.
function kl(p, q) {
  return p.reduce((sum, share, i) => sum + (share > 0 ? share * Math.log(share / q[i]) : 0), 0);
}

function firstChoice(p) {
  return p.indexOf(Math.max(...p));
}

function nats(value) {
  return Number.isFinite(value) ? value.toFixed(3) : "∞";
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}

// -- sliders ---------------------------------------------------------------------------------

// A slider's number, written beside it and told to a screen reader in the same words.
function tell(slider, words) {
  slider.setAttribute("aria-valuetext", words);
  part(`${slider.dataset.part}-value`).textContent = words;
}

// The slider's steps are places in DATA.temperatures: 1, 1.2 … 2, 2.4 … 4, 4.8 …
function prepareTemperature(start) {
  const slider = part("T");
  slider.max = DATA.temperatures.length - 1;
  slider.value = DATA.temperatures.indexOf(start);
}

function temperature() {
  const T = DATA.temperatures[part("T").value];
  tell(part("T"), `T = ${T}`);
  return T;
}

// -- drawing ---------------------------------------------------------------------------------

// Add an SVG element to `parent`: draw(svg, "rect", {x: 0, …}) or draw(svg, "text", {…}, "words").
function draw(parent, tag, attributes, words) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  if (words !== undefined) {
    element.textContent = words;
  }
  parent.append(element);
  return element;
}

// An empty picture that a screen reader knows by these words.
function cleared(words) {
  const svg = part("picture");
  svg.replaceChildren();
  svg.setAttribute("aria-label", words);
  return svg;
}

const BAR = 22; // the height of a bar
const STEP = 28; // from one bar to the next

// One answer as lying bars, a class each. Its left upper corner is (x, y); 100 % is `width` long.
function answer(svg, x, y, width, title, p, color) {
  draw(svg, "text", { x, y: y + 12, class: "strong" }, title);
  p.forEach((share, i) => {
    const top = y + 22 + i * STEP;
    draw(svg, "rect", { x, y: top, width, height: BAR, fill: "#f3f3f3" });
    draw(svg, "rect", { x, y: top, width: width * share, height: BAR, fill: color });
    draw(svg, "text", { x: x + width * share + 5, y: top + 16 }, percent(share));
  });
}

// The names of the classes, written right-aligned at x beside the bars of `answer`.
function classNames(svg, x, y) {
  DATA.classes.forEach((name, i) => {
    draw(svg, "text", { x, y: y + 38 + i * STEP, "text-anchor": "end" }, name);
  });
}

// "A 76 %, B 19 %, C 5 %"
function inWords(p) {
  return p.map((share, i) => `${DATA.classes[i]} ${percent(share)}`).join(", ");
}
