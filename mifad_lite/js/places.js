// Chapter 4: who attends to whom. Faces and attention vectors come from the record `explorer`; the rest is computed here.
const SIDE = 12, N = SIDE * SIDE, CELL = 25, LEFT = 20, TOP = 4; // a map: 12 cells of 25 units
const emotion = ui.choice({ label: "face", options: data.classes.map((c, i) => [i, c]), value: 5 });
const depth = ui.choice({ label: "depth", options: Object.keys(data.v), value: 5 });
const scale = ui.slider({ label: "v times", min: 0.25, max: 2, step: 0.05, value: 1, show: (k) => k.toFixed(2) });
const faces = ui.unpack(data.faces);
let query = [7, 4]; // row, column
const seen = ui.panel("drag the ring, or use the arrow keys", 340, 342);
const vector = ui.panel("v, one number per place", 340, 342);
const row = ui.panel("the query's row of the map: who counts for it", 340, 342);
const curve = ui.panel("weight of the top place, for a query with v = t", 340, 342);
const queryText = ui.readout("query"), vText = ui.readout("v of the query");
const topText = ui.readout("its top place gets"), entropyText = ui.readout("entropy of its row / ln 144");
const note = ui.note();

const xOf = (column) => LEFT + CELL * column, yOf = (r) => TOP + CELL * r;
const css = (rgb) => `rgb(${rgb.map(Math.round)})`;
const text = (x, y, words, anchor = "middle") => ui.svg("text", { x, y, "text-anchor": anchor }, words);
const photo = (face) => {
  const canvas = ui.el("canvas", { width: 48, height: 48 });
  ui.paint(canvas, faces.slice(2304 * face, 2304 * (face + 1)), 48, 48);
  return ui.svg("image", { href: canvas.toDataURL(), x: LEFT, y: TOP, width: 300, height: 300, style: "image-rendering: pixelated" });
};
const cells = (color, opacity = 1) => Array.from({ length: N }, (_, j) => ui.svg("rect", {
  x: xOf(j % SIDE), y: yOf(Math.floor(j / SIDE)), width: CELL + 0.3, height: CELL + 0.3, fill: css(color(j)), "fill-opacity": opacity }));
const box = (place, color, dash = "none") => ["#fff", color].map((stroke, i) => ui.svg("rect", {
  x: xOf(place % SIDE) + 1, y: yOf(Math.floor(place / SIDE)) + 1, width: CELL - 2, height: CELL - 2, fill: "none", stroke,
  "stroke-width": i ? 2.5 : 5, "stroke-dasharray": i ? dash : "none" }));
const bar = (color, labels) => [ // a color bar under a map, with [position 0..1, text] below it
  ...Array.from({ length: 60 }, (_, i) => ui.svg("rect", { x: LEFT + 5 * i, y: 310, width: 5.3, height: 10, fill: css(color((i + 0.5) / 60)) })),
  ...labels.map(([t, words]) => text(LEFT + 300 * t, 335, words, t === 0 ? "start" : t === 1 ? "end" : "middle"))];

const [halo, ring] = [["#fff", 7], ["var(--c3)", 4]].map(([stroke, width]) =>
  ui.svg("circle", { r: 14, fill: "transparent", stroke, "stroke-width": width }));
const clamp = (u) => Math.min(SIDE - 1, Math.max(0, Math.floor(u / CELL)));
ui.handle(ring, seen, {
  label: "query place", step: CELL, text: () => `row ${query[0] + 1}, column ${query[1] + 1}`,
  get: () => [xOf(query[1]) + CELL / 2, yOf(query[0]) + CELL / 2],
  set: (x, y) => { query = [clamp(y - TOP), clamp(x - LEFT)]; },
});

const under = ui.svg("g"); // redrawn below the ring, which stays where it is and so keeps the focus
seen.append(under, halo, ring, text(170, 325, "ring: the query. dashed: its top place"));

const LIMIT = 8, px = (t) => 40 + (290 * (t + LIMIT)) / (2 * LIMIT), py = (w) => 285 - 270 * w; // the curve's axes
const share = (w) => (Math.log2(N * w) + 3) / 8; // 1/8 to 32 times the even share -> 0 to 1
ui.draw(() => {
  const v = data.v[depth.value][emotion.value].map((u) => scale.value * u), i = SIDE * query[0] + query[1];
  const weights = ui.softmax(v.map((u) => v[i] * u));
  const top = weights.indexOf(Math.max(...weights));
  const entropy = -weights.reduce((sum, w) => sum + (w > 0 ? w * Math.log(w) : 0), 0) / Math.log(N);
  const clipped = (t) => Math.min(1, Math.max(0, t));

  under.replaceChildren(photo(+emotion.value), ...box(top, "var(--c1)", "4 3"));
  for (const circle of [halo, ring]) {
    circle.setAttribute("cx", xOf(query[1]) + CELL / 2);
    circle.setAttribute("cy", yOf(query[0]) + CELL / 2);
  }
  vector.replaceChildren(...cells((j) => ui.signed(clipped((v[j] + 4) / 8))), ...box(i, "var(--c3)"),
    ...bar(ui.signed, [[0, "−4"], [0.5, "0"], [1, "4"]]));
  row.replaceChildren(photo(+emotion.value), ...cells((j) => ui.heat(clipped(share(weights[j]))), 0.72), ...box(i, "var(--c3)"),
    ...bar(ui.heat, [[0, "1/8"], [3 / 8, "even share"], [1, "32 times"]]));

  const step = LIMIT / 60, path = Array.from({ length: 121 }, (_, n) => n * step - LIMIT).map((t, n) =>
    `${n ? "L" : "M"}${px(t).toFixed(1)} ${py(Math.max(...ui.softmax(v.map((u) => t * u)))).toFixed(1)}`);
  curve.replaceChildren(
    ui.svg("path", { d: "M40 15V285H330", fill: "none", stroke: "var(--line)" }),
    ui.svg("path", { d: v.map((u) => `M${px(u).toFixed(1)} 286v9`).join(""), stroke: "currentColor", "stroke-opacity": 0.45 }),
    ui.svg("path", { d: path.join(""), fill: "none", stroke: "var(--c0)", "stroke-width": 2.5 }),
    ui.svg("line", { x1: px(v[i]), x2: px(v[i]), y1: 285, y2: py(weights[top]), stroke: "var(--c3)", "stroke-dasharray": "4 3" }),
    ui.svg("circle", { cx: px(v[i]), cy: py(weights[top]), r: 7, fill: "var(--c3)", stroke: "#fff", "stroke-width": 1.5 }),
    ...[-8, -4, 0, 4, 8].map((t) => text(px(t), 311, String(t).replace("-", "−"))),
    ...[0, 0.5, 1].map((w) => text(34, py(w) + 4, w, "end")), text(185, 333, "t (ticks: the 144 places)"));

  const side = v[i] > 0 ? "largest" : "smallest";
  queryText(`row ${query[0] + 1}, column ${query[1] + 1}`);
  vText(v[i].toFixed(2).replace("-", "−"));
  topText(`${(100 * weights[top]).toFixed(1)} %`);
  entropyText(`${(100 * entropy).toFixed(0)} %`);
  note(Math.abs(v[i]) < 0.3 ? "v is near 0: the query weighs all places almost alike."
    : `v is ${v[i] > 0 ? "positive" : "negative"}: the query turns to the places with the ${side} v, as every ${v[i] > 0 ? "positive" : "negative"} query does.`);
  Object.assign(ui.state, { face: +emotion.value, depth: +depth.value, query: i, v_i: v[i], row: weights, top, entropy });
});
