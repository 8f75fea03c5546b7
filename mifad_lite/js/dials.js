// Chapter 1: drawn faces at 25 settings of the dials intra and inter, and what two classifiers make of them there.
// data.sprite: one picture; a row of 48 px tiles for each setting (intra slow, inter fast), first the people (seven
// emotions each), then seven mean faces. data.tables[classifier][setting]: counts (7 x 7), rows the true class.
const { intra: INTRA, inter: INTER, classes: NAMES, people: PEOPLE } = data, GROUP = 3, n = NAMES.length;
const dial = (label, values) => ui.slider({ label, min: 0, max: values.length - 1, step: 1, value: 2, show: (i) => values[i].toFixed(2) });
const intra = dial("intra", INTRA), inter = dial("inter", INTER);
const emotion = ui.choice({ label: "faces", options: [["-1", "all seven emotions"], ...NAMES.map((name, i) => [`${i}`, name])] });
const classifier = ui.choice({ label: "classifier", options: Object.keys(data.tables) });
let group = 0;
ui.button({ label: "new people", press: () => { group = (group + 1) % (PEOPLE / GROUP); } });

const canvas = ui.raster("faces", 350, 200);
canvas.parentElement.style.cssText = "flex-basis:100%;max-width:560px";
const names = ui.el("div", { style: "display:grid;font-size:11px;text-align:center" });
canvas.before(names);
const map = ui.panel("accuracy (%) over the two dials: drag the ring", 340, 300);
const matrix = ui.panel("confusion matrix", 340, 300);
const total = ui.readout("answers right"), one = ui.readout("of the chosen emotion"), within = ui.readout("W, within a class");
const between = ui.readout("B, between classes");
const say = ui.note();
const percent = (share) => `${Math.round(100 * share)} %`;
const shade = (x, y, w, h, share, text, strong) => [
  ui.svg("rect", { x, y, width: w - 2, height: h - 2, fill: "var(--c0)", "fill-opacity": 0.06 + 0.94 * share }),
  ui.svg("text", { x: x + w / 2 - 1, y: y + h / 2 + 4, "text-anchor": "middle",
    style: (share > 0.6 ? "fill:#fff;" : "") + (strong ? "font-weight:700" : "") }, text),
];
const label = (x, y, text, anchor = "middle") => ui.svg("text", { x, y, "text-anchor": anchor }, text);

// The map: cell (i, j) is intra i, inter j. The ring can be dragged; the arrow keys move it from cell to cell.
const [X0, Y0, W, H] = [56, 8, 56, 46];
const ring = ui.svg("rect", { width: W + 2, height: H + 2, rx: 5, fill: "transparent", stroke: "var(--c1)", "stroke-width": 4 });
const near = (v, count) => Math.max(0, Math.min(count - 1, Math.round(v)));
ui.handle(ring, map, {
  label: "setting of the two dials", step: W,
  get: () => [X0 + (intra.value + 0.5) * W, Y0 + (inter.value + 0.5) * H],
  set: (x, y) => { intra.value = near((x - X0) / W - 0.5, INTRA.length); inter.value = near((y - Y0) / H - 0.5, INTER.length); },
  text: () => `intra ${INTRA[intra.value]}, inter ${INTER[inter.value]}`,
});

const accuracy = (counts) => counts.reduce((sum, v, k) => sum + (k % (n + 1) ? 0 : v), 0) / counts.reduce((a, b) => a + b);
const sprite = new Image();
function draw() {
  const setting = intra.value * INTER.length + inter.value, c = +emotion.value;
  const tables = data.tables[classifier.value], counts = tables[setting];
  const row = (i) => { const r = counts.slice(i * n, i * n + n), s = r.reduce((a, b) => a + b); return r.map((v) => v / s); };
  const cp = NAMES.map((_, i) => row(i)), right = accuracy(counts);
  const rival = c < 0 ? 0 : cp[c].map((v, j) => (j === c ? -1 : v)).reduce((best, v, j, all) => (v > all[best] ? j : best), c ? 0 : 1);

  // Faces: seven columns of three people and their mean; or of one emotion three people, their mean and a rival's.
  const person = (p, e) => (group * GROUP + p) * n + e, mean = (e) => PEOPLE * n + e;
  const rows = c < 0
    ? [0, 1, 2].map((p) => NAMES.map((_, e) => person(p, e))).concat([NAMES.map((_, e) => mean(e))])
    : [[person(0, c), person(1, c), person(2, c)], [mean(c), mean(rival)]];
  const columns = rows[0].length;
  names.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
  names.replaceChildren(...(c < 0 ? NAMES : []).map((name) => ui.el("span", {}, name)));
  canvas.caption(c < 0 ? "three people for each emotion; last row: the mean faces"
    : `above: ${NAMES[c]}; below: the mean face of ${NAMES[c]}, and that of ${NAMES[rival]}`);
  canvas.width = columns * 50;
  canvas.height = rows.length * 50;
  const context = canvas.getContext("2d");
  rows.forEach((tiles, y) => tiles.forEach((tile, x) => {
    if (sprite.complete) context.drawImage(sprite, 48 * tile, 48 * setting, 48, 48, 50 * x + 1, 50 * y + 1, 48, 48);
  }));

  map.replaceChildren(
    ...tables.flatMap((t, k) => shade(X0 + Math.floor(k / INTER.length) * W, Y0 + (k % INTER.length) * H, W, H, accuracy(t), Math.round(100 * accuracy(t)), k === setting)),
    ...INTRA.map((v, i) => label(X0 + (i + 0.5) * W, Y0 + 5 * H + 16, v)), label(X0 + 2.5 * W, Y0 + 5 * H + 36, "intra: other people, light, pose"),
    ...INTER.map((v, j) => label(X0 - 6, Y0 + (j + 0.5) * H + 4, v, "end")),
    ui.svg("text", { transform: `translate(14 ${Y0 + 2.5 * H}) rotate(-90)`, "text-anchor": "middle" }, "inter: classes alike"),
    ring,
  );
  ring.setAttribute("x", X0 + intra.value * W - 2);
  ring.setAttribute("y", Y0 + inter.value * H - 2);

  const [x0, y0, w, h] = [62, 8, 39, 35];
  matrix.caption(`${classifier.value} at this setting: what is said (columns) of each true emotion (rows), in %`);
  matrix.replaceChildren(
    ...cp.flatMap((r, i) => r.flatMap((v, j) => shade(x0 + j * w, y0 + i * h, w, h, v, Math.round(100 * v), i === j))),
    ...NAMES.flatMap((name, i) => [label(x0 - 5, y0 + (i + 0.5) * h + 4, name, "end"), label(x0 + (i + 0.5) * w, y0 + n * h + 14 + 14 * (i % 2), name)]),
    ...(c < 0 ? [] : [ui.svg("rect", { x: x0 - 2, y: y0 + c * h - 2, width: n * w + 2, height: h + 2, fill: "none", stroke: "var(--c1)", "stroke-width": 3 })]),
  );

  const [W_, B_] = data.spread[setting];
  total(percent(right));
  one(c < 0 ? "choose an emotion" : percent(cp[c][c]));
  within(`${W_.toFixed(1)} grey levels`);
  between(`${B_.toFixed(1)} grey levels`);
  say(c < 0 ? "Guessing is right on 14 %." : `Of the ${NAMES[c]} test faces, ${percent(cp[c][rival])} are called ${NAMES[rival]}.`);
  Object.assign(ui.state, { intra: INTRA[intra.value], inter: INTER[inter.value], emotion: c, group, accuracy: right, recall: c < 0 ? null : cp[c][c], within: W_, between: B_ });
}
ui.draw(draw);
sprite.onload = draw;
sprite.src = data.sprite;
