// Chapter 5: one channel of a column's map, the gate and their product, and what the gate does to three columns at a place.
const emotion = ui.choice({ label: "face", options: data.classes.map((c, i) => [i, c]), value: data.start.emotion });
const depth = ui.choice({ label: "depth", options: Object.keys(data.gate).reverse(), value: data.start.depth });
const column = ui.choice({ label: "column", options: ["7", "5", "3"], value: data.start.column });
const channel = ui.slider({ label: "channel", min: 0, max: data.channels - 1, step: 1, value: data.start.channel });
const strength = ui.slider({ label: "gate strength t", min: 0, max: 2, step: 0.1, value: 1,
  show: (t) => (t ? t.toFixed(1) : "off") });
const COLOR = { 7: "var(--c1)", 5: "var(--c0)", 3: "var(--c2)" }, SIDE = 12, PLACES = SIDE * SIDE, TILE = 150, CELL = TILE / SIDE;
const maps = ui.panel("The marked place on the face, in the map, in the gate and after the gate", 340, 362);
const bars = ui.panel("The three columns at the marked place, before (pale) and after the gate (full)", 340, 270);
const here = ui.readout("gate at the marked place"), mean = ui.readout("mean gate of this channel");
const kept = ui.readout("kept of the maps of 7, 5, 3"), closed = ui.readout("places with a gate below 0.1");
const say = ui.note();
let [row, col] = data.start.place;

// The bytes of the record, unpacked once: gate[depth] and columns[depth][kernel], each (7, C, 12, 12).
const each = (object, f) => Object.fromEntries(Object.entries(object).map(([k, v]) => [k, f(v)]));
const gates = each(data.gate, (v) => ui.unpack(v)), columns = each(data.columns, (d) => each(d, (v) => ui.unpack(v)));
const faces = ui.unpack(data.faces), canvas = ui.el("canvas");
const tile = (x, y, text) => {
  const image = ui.svg("image", { x, y, width: TILE, height: TILE, style: "image-rendering: pixelated" });
  const label = ui.svg("text", { x, y: y - 7 });
  const mark = ui.svg("rect", { width: CELL, height: CELL, fill: "none", stroke: "#d55e00", "stroke-width": 2.5 });
  label.textContent = text;
  maps.append(label, image, ui.svg("rect", { x, y, width: TILE, height: TILE, fill: "none", stroke: "var(--line)" }), mark);
  return (values, side, high, name = text, color = ui.heat) => {
    Object.assign(canvas, { width: side, height: side });
    ui.paint(canvas, values, side, side, { high, color });
    image.setAttribute("href", canvas.toDataURL());
    label.textContent = name;
    mark.setAttribute("x", x + col * CELL);
    mark.setAttribute("y", y + row * CELL);
  };
};
const face = tile(10, 24, "the face"), before = tile(180, 24, ""), gate = tile(10, 204, ""), after = tile(180, 204, "");
const handle = ui.svg("circle", { r: 13, fill: "transparent", stroke: "#d55e00", "stroke-width": 2.5 });
maps.append(handle);
const inside = (v) => Math.min(SIDE - 1, Math.max(0, v));
ui.handle(handle, maps, {
  label: "marked place", step: CELL, text: () => `row ${row}, column ${col}`,
  get: () => [180 + (col + 0.5) * CELL, 24 + (row + 0.5) * CELL],
  set: (x, y) => { col = inside(Math.floor((x - 180) / CELL)); row = inside(Math.floor((y - 24) / CELL)); },
});

ui.draw(() => {
  const k = column.value, t = strength.value, place = SIDE * row + col;
  const start = (emotion.value * data.channels + channel.value) * PLACES;
  const part = (values) => values.subarray(start, start + PLACES);
  const g = part(gates[depth.value]).map((v) => v ** t), f = each(columns[depth.value], part);
  const r = each(f, (map) => map.map((v, i) => g[i] * v));
  const top = Math.max(...f[k]), sum = (values) => values.reduce((a, b) => a + b, 0);
  face(faces.slice(emotion.value * 2304, (+emotion.value + 1) * 2304), 48, 1, "the face", (v) => [255 * v, 255 * v, 255 * v]);
  before(f[k], SIDE, top || 1, `map of column ${k}`);
  gate(g, SIDE, 1, t === 1 ? "gate g" : t ? `gate g to the power ${t.toFixed(1)}` : "gate off: 1 everywhere");
  after(r[k], SIDE, top || 1, `gate times map ${k}`);
  handle.setAttribute("cx", 180 + (col + 0.5) * CELL);
  handle.setAttribute("cy", 24 + (row + 0.5) * CELL);

  const here3 = [7, 5, 3].map((c) => [c, f[c][place], r[c][place]]), totals = [1, 2].map((i) => sum(here3.map((h) => h[i])));
  const share = (v, i) => (totals[i] ? v / totals[i] : 0), percent = (v) => `${(100 * v).toFixed(0)} %`;
  const X = (v) => 66 + 190 * v; // 1 is the column's largest value at this depth
  bars.replaceChildren(ui.svg("path", { d: "M66 22V242H256", fill: "none", stroke: "var(--line)" }),
    ui.svg("text", { x: 264, y: 16 }, "share"), ui.svg("text", { x: 66, y: 260 }, "0"),
    ui.svg("text", { x: 256, y: 260, "text-anchor": "end" }, "the column's largest value"));
  here3.forEach(([c, x, y], n) => {
    const yTop = 32 + 72 * n;
    bars.append(ui.svg("text", { x: 0, y: yTop + 33 }, `column ${c}`),
      ui.svg("rect", { x: 66, y: yTop, width: X(x) - 66, height: 24, fill: COLOR[c], "fill-opacity": 0.45, stroke: COLOR[c] }),
      ui.svg("rect", { x: 66, y: yTop + 28, width: X(y) - 66, height: 24, fill: COLOR[c] }),
      ui.svg("text", { x: 264, y: yTop + 17 }, totals[0] ? percent(share(x, 0)) : "none"),
      ui.svg("text", { x: 264, y: yTop + 45 }, totals[1] ? percent(share(y, 1)) : totals[0] ? "shut" : "none"));
    Object.assign(ui.state, { [`before${c}`]: share(x, 0), [`after${c}`]: share(y, 1) });
    ui.state[`kept${c}`] = sum(f[c]) && sum(r[c]) / sum(f[c]);
  });
  const low = g.filter((v) => v < 0.1).length;
  Object.assign(ui.state, { gate: g[place], mean: sum(g) / PLACES, closed: low });
  here(ui.state.gate.toFixed(2));
  mean(ui.state.mean.toFixed(2));
  kept([7, 5, 3].map((c) => (sum(f[c]) ? percent(ui.state[`kept${c}`]) : "(empty)")).join(", "));
  closed(`${low} of ${PLACES}`);
  say(!totals[0] ? "All three columns are silent here: the gate has nothing to weigh."
    : !totals[1] ? "The gate is shut: nothing passes here, from any column."
    : `The gate multiplies all three columns by ${g[place].toFixed(2)}. Their shares stay as they were.`);
});
