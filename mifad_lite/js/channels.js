// Chapter 3: channel attention of seven drawn faces. v as bars, A_c as a heatmap, one row of it, and what alpha makes of it.
const C = data.channels, bits = (p) => -p.reduce((sum, w) => sum + (w > 0 ? w * Math.log2(w) : 0), 0);
let order = Array.from({ length: C }, (_, i) => i), shown = "5 3"; // channels from left to right; what is on show
const emotion = ui.choice({ label: "face", options: data.classes.map((name, i) => [i, name]), value: "3" });
const depth = ui.choice({ label: "depth", options: Object.keys(data.depths), value: "5" });
const scale = ui.slider({ label: "scale of v", min: 0, max: 4, step: 0.1, value: 1, show: (v) => `× ${v.toFixed(1)}` });
const alpha = ui.slider({ label: "α", min: -1, max: 2, step: 0.01, value: data.depths[5].alpha, show: (v) => (+v).toFixed(2) });
const row = ui.slider({ label: "row i", min: 0, max: C - 1, step: 1, value: 6, show: (v) => order[v] });
const sort = ui.button({ label: "sort the channels by v", on: false, press: () => arrange() });
const bars = ui.panel("the face, and its v: one number per channel", 340, 300);
const map = ui.panel("the channel map", 340, 318);
const weights = ui.panel("row i of the channel map", 340, 250);
const mix = ui.panel("what leaves as channel i", 340, 250);
const valueAt = ui.readout("v of this channel"), largestAt = ui.readout("largest weight in its row");
const entropyAt = ui.readout("entropy of the row"), spread = ui.readout("channels heard, 2 ^ entropy");
const note = ui.note();
const [left, right] = [34, 322], step = (right - left) / C, cell = 18, corner = 30;
const center = (position) => left + (position + 0.5) * step;
const seen = ui.unpack(data.faces), plain = ui.el("canvas", { width: 48, height: 48 });
const current = () => data.depths[depth.value].v[emotion.value];

function arrange() { // the order of the channels from left to right; the chosen channel stays chosen
  const channel = order[row.value], v = current();
  order = Array.from({ length: C }, (_, i) => i);
  if (sort.on) order.sort((a, b) => v[a] - v[b]);
  row.value = order.indexOf(channel);
}
const rect = (x, y, width, height, fill, more = {}) =>
  ui.svg("rect", { x, y, width: Math.max(0, width), height: Math.max(0, height), fill, ...more });
const text = (x, y, words, anchor = "middle") => ui.svg("text", { x, y, "text-anchor": anchor }, words);
// Bars from zero for the values of all channels; low and high are the ends of the axis, top and bottom its place.
function chart(values, low, high, top, bottom, color) {
  const Y = (value) => bottom - ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (bottom - top);
  const ticks = [low, 0, high].filter((t, i, all) => all.indexOf(t) === i);
  return [
    rect(center(row.value) - step / 2, top, step, bottom - top, "var(--soft)"),
    ...ticks.map((t) => ui.svg("line", { x1: left, x2: right, y1: Y(t), y2: Y(t), stroke: "var(--line)", "stroke-width": t ? 0.5 : 1.5 })),
    ...ticks.map((t) => text(left - 5, Y(t) + 4, +t.toFixed(2), "end")),
    ...values.map((value, i) => rect(center(i) - 0.38 * step, Y(Math.max(0, value)), 0.76 * step, Math.abs(Y(value) - Y(0)), color(i))),
    ...values.map((_, i) => text(center(i), bottom + 16, order[i])),
  ];
}

const pointer = ui.svg("path", { d: "M0 -9L9 7H-9Z", fill: "var(--c3)" });
const grip = ui.svg("g", {}, rect(-20, -14, 40, 34, "transparent"), pointer);
ui.handle(grip, bars, {
  label: "row i", step, get: () => [center(row.value), 282], text: () => `channel ${order[row.value]}`,
  set: (x) => { row.value = Math.min(C - 1, Math.max(0, Math.round((x - left) / step - 0.5))); },
});
map.addEventListener("pointerdown", (event) => {
  const box = map.getBoundingClientRect();
  const y = ((event.clientY - box.y) / box.height) * 318;
  row.value = Math.min(C - 1, Math.max(0, Math.floor((y - 20) / cell)));
  redrawn();
});
function redrawn() {
  if (shown !== `${depth.value} ${emotion.value}`) { // another face or depth: sort again, and take the learned alpha
    if (shown[0] !== depth.value) alpha.value = data.depths[depth.value].alpha;
    shown = `${depth.value} ${emotion.value}`;
    arrange();
  }
  const channel = order[row.value], a = alpha.value;
  const v = current().map((value) => scale.value * value + 0); // + 0: no minus zero
  const A = v.map((vi) => ui.softmax(v.map((vj) => vi * vj))); // A_c, in the channels' own order
  const rowWeights = A[channel], out = rowWeights.map((w, j) => a * w + (j === channel));
  const entropy = bits(rowWeights), top = Math.max(2 / C, ...A.flat());

  ui.paint(plain, seen.subarray(2304 * emotion.value, 2304 * (+emotion.value + 1)), 48, 48);
  const largest = Math.max(...v.map(Math.abs), ...current().map(Math.abs), 0.1), reach = Math.ceil(2 * largest) / 2;
  bars.replaceChildren(
    ui.svg("image", { href: plain.toDataURL(), x: left, y: 0, width: 84, height: 84, style: "image-rendering: pixelated" }),
    text(left + 96, 30, data.classes[emotion.value], "start"), text(left + 96, 50, `depth ${depth.value}, ${C} channels`, "start"),
    ...chart(order.map((j) => v[j]), -reach, reach, 98, 250, (i) => (v[order[i]] < 0 ? "var(--c1)" : "var(--c0)")), grip,
  );
  grip.setAttribute("transform", `translate(${center(row.value)} 282)`);

  const color = (w) => `rgb(${ui.heat(w / top).map(Math.round)})`;
  map.caption(`A_c, rows i and columns j; dark is 0, yellow is ${top.toFixed(2)}`);
  map.replaceChildren(
    ...order.flatMap((i, y) => order.map((j, x) => rect(corner + cell * x, 20 + cell * y, cell + 0.3, cell + 0.3, color(A[i][j])))),
    rect(corner - 1, 20 + cell * row.value - 1, C * cell + 2, cell + 2, "none", { stroke: "var(--c3)", "stroke-width": 3 }),
    ...order.map((i, y) => text(corner - 5, 33 + cell * y, i, "end")), ...order.map((j, x) => text(corner + cell * (x + 0.5), 14, j)),
  );

  const shownTop = Math.max(0.25, Math.ceil(4 * Math.max(...rowWeights)) / 4);
  weights.caption(`row ${channel} of A_c: the weight of every channel j; dashed: 1/${C}`);
  const even = 220 - (1 / C / shownTop) * 205;
  weights.replaceChildren(...chart(order.map((j) => rowWeights[j]), 0, shownTop, 15, 220, () => "var(--c2)"),
    ui.svg("line", { x1: left, x2: right, y1: even, y2: even, stroke: "currentColor", "stroke-dasharray": "5 4" }));

  const [low, high] = [Math.min(-0.5, Math.floor(2 * Math.min(...out)) / 2), Math.max(1, Math.ceil(2 * Math.max(...out)) / 2)];
  mix.caption(`row ${channel} of 1 + α A_c: how much of channel j leaves as channel ${channel}`);
  mix.replaceChildren(...chart(order.map((j) => out[j]), low, high, 15, 220, (i) => (order[i] === channel ? "var(--c3)" : "var(--c2)")));

  valueAt(v[channel].toFixed(3));
  largestAt(Math.max(...rowWeights).toFixed(3));
  entropyAt(`${entropy.toFixed(3)} of ${Math.log2(C).toFixed(0)} bits`);
  spread((2 ** entropy).toFixed(2));
  const best = rowWeights.indexOf(Math.max(...rowWeights)), end = v[channel] < 0 ? "lowest" : "highest";
  note(Math.abs(v[channel]) < 1e-9 ? `Row ${channel} weighs all channels equally.`
    : `Row ${channel} weighs channel ${best} most, the one with the ${end} v.`);
  Object.assign(ui.state, { v, row: channel, weights: rowWeights, entropy, alpha: a, out, depth: +depth.value, face: +emotion.value });
}
ui.draw(redrawn);
