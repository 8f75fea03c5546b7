// Chapter 2: what one number of a column's map can see, and what the column has cost so far. Exact integer formulas.
const color = { 3: "var(--c2)", 5: "var(--c0)", 7: "var(--c1)", 9: "var(--c4)" }, kernels = [3, 5, 7, 9];
const kernel = ui.slider({ label: "kernel", min: 3, max: 9, step: 2, value: 5, show: (k) => `${k} x ${k}` });
const depth = ui.slider({ label: "depth", min: 1, max: 6, step: 1, value: 4 });
const face = ui.choice({ label: "face", options: data.classes.map((name, i) => [i, name]), value: 3 });
const pools = ui.button({ label: "pools after depths 1 and 3", on: true });
const picture = ui.panel("the face; bright: what the unit sees", 340, 340);
const chart = ui.panel("side of the field against the depth, for each kernel", 340, 300);
const bars = ui.panel("multiply-adds at each depth, in millions", 340, 300);
const fieldAt = ui.readout("side of the field"), shareAt = ui.readout("share of the face in it");
const mapAt = ui.readout("map at this depth"), weightsAt = ui.readout("weights so far"), macsAt = ui.readout("multiply-adds so far");
const note = ui.note();
const SIDE = 48, U = 6, M = 26; // pixels of a face, units of a pixel, margin around the face

// At depth 1 .. 6: side of the field, pixels between neighbours (step), side of the map, weights and multiply-adds.
function column(k) {
  let field = 1, step = 1;
  return data.widths.map((width, i) => {
    field += (k - 1) * step;
    const side = SIDE / step, weights = k * k * (i ? data.widths[i - 1] : 1) * width;
    const row = { field, step, side, weights, macs: weights * side * side };
    if (pools.on && data.pool_after.includes(i + 1)) { field += step; step *= 2; }
    return row;
  });
}

const pictures = data.classes.map((_, i) => { // each face as a PNG for SVG
  const canvas = ui.el("canvas", { width: SIDE, height: SIDE });
  ui.paint(canvas, ui.unpack(data.faces).slice(i * SIDE * SIDE, (i + 1) * SIDE * SIDE), SIDE, SIDE);
  return canvas.toDataURL();
});
let at = [26, 26]; // the unit's place on the face, in pixels
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
const cell = (step) => at.map((v) => Math.floor(v / step)); // column and row of the unit in its map
const middle = () => { const { step } = column(kernel.value)[depth.value - 1]; return cell(step).map((c) => (c + 0.5) * step); };
const handle = ui.svg("g", {}, ui.svg("circle", { r: 20, fill: "transparent" }),
  ui.svg("circle", { r: 8, fill: "#fff", stroke: "#000", "stroke-width": 2 }));
ui.handle(handle, picture, {
  label: "output unit", step: 4 * U, // one place of the coarsest map
  get: () => middle().map((v) => M + U * v),
  set: (x, y) => { at = [x, y].map((v) => clamp((v - M) / U, 0, SIDE - 0.01)); },
  text: () => `row ${ui.state.row}, column ${ui.state.column} of the map`,
});
const text = (x, y, words, anchor = "middle") => ui.svg("text", { x, y, "text-anchor": anchor }, words);
const commas = (n) => n.toLocaleString("en-US");

ui.draw(() => {
  const k = kernel.value, rows = column(k), { field, step, side } = rows[depth.value - 1];
  const [column_, row] = cell(step), centre = middle();
  const [left, top] = centre.map((v) => v - field / 2), [right, bottom] = centre.map((v) => v + field / 2);
  const inside = [left, top, right, bottom].map((v) => clamp(v, 0, SIDE));
  const seen = (inside[2] - inside[0]) * (inside[3] - inside[1]);
  const total = (what) => rows.slice(0, depth.value).reduce((sum, r) => sum + r[what], 0);
  Object.assign(ui.state, { kernel: k, depth: depth.value, pools: pools.on, row, column: column_, field, step, side, seen,
    share: seen / SIDE ** 2, params: total("weights"), macs: total("macs"),
    first: [inside[1], inside[0]], last: [inside[3] - 1, inside[2] - 1] });

  // The face: dimmed outside the field; the field's frame may leave the face, into the padding.
  const [x0, y0, x1, y1] = inside.map((v) => M + U * v), end = M + U * SIDE;
  picture.replaceChildren(
    ui.svg("rect", { width: 340, height: 340, fill: "var(--soft)" }),
    ui.svg("image", { href: pictures[face.value], x: M, y: M, width: U * SIDE, height: U * SIDE, style: "image-rendering: pixelated" }),
    ui.svg("path", { d: `M${M} ${M}H${end}V${end}H${M}ZM${x0} ${y0}V${y1}H${x1}V${y0}Z`, fill: "#000", opacity: 0.62 }),
    ui.svg("rect", { x: M + U * left, y: M + U * top, width: U * field, height: U * field, fill: "none", stroke: color[k], "stroke-width": 4 }),
    ui.svg("rect", { x: M + U * step * column_, y: M + U * step * row, width: U * step, height: U * step, fill: "none", stroke: "#fff", "stroke-width": 1.5 }),
    handle,
  );
  handle.setAttribute("transform", `translate(${centre.map((v) => M + U * v).join(" ")})`);

  // Sides against depth.
  const X = (d) => 44 + (d - 1) * 50, Y = (v) => 262 - v * 1.6;
  chart.replaceChildren(
    ui.svg("path", { d: "M34 15V262H330", fill: "none", stroke: "var(--line)" }),
    ui.svg("path", { d: `M34 ${Y(SIDE)}H330`, stroke: "currentColor", "stroke-dasharray": "5 4" }),
    text(38, Y(SIDE) - 5, "the face", "start"),
    ...[0, 48, 96, 144].map((v) => text(30, Y(v) + 4, v, "end")),
    ...[1, 2, 3, 4, 5, 6].map((d) => text(X(d), 280, d)), text(180, 297, "depth"),
    ...kernels.map((q) => ui.svg("path", { fill: "none", stroke: color[q], "stroke-width": q === k ? 4 : 1.5,
      d: column(q).map((r, i) => `${i ? "L" : "M"}${X(i + 1)} ${Y(r.field)}`).join("") })),
    ...kernels.map((q) => text(300, Y(column(q)[5].field) + 4, `${q} x ${q}`, "start")),
    ui.svg("circle", { cx: X(depth.value), cy: Y(field), r: 7, fill: color[k], stroke: "currentColor", "stroke-width": 2 }),
  );

  // Multiply-adds of each depth; those that the unit needs are full, the others pale.
  const most = Math.max(...rows.map((r) => r.macs));
  bars.replaceChildren(...rows.flatMap((r, i) => {
    const h = (220 * r.macs) / most;
    return [ui.svg("rect", { x: 20 + 52 * i, width: 40, y: 262 - h, height: h, fill: color[k], opacity: i < depth.value ? 1 : 0.3 }),
      text(40 + 52 * i, 256 - h, (r.macs / 1e6).toFixed(2)), text(40 + 52 * i, 280, i + 1)];
  }), text(180, 297, "depth"));

  fieldAt(`${field} px`);
  shareAt(`${(100 * ui.state.share).toFixed(1)} %`);
  mapAt(step > 1 ? `${side} x ${side}, every ${step} px` : `${side} x ${side}, every pixel`);
  weightsAt(commas(ui.state.params));
  macsAt(commas(ui.state.macs));
  note(`Row ${row}, column ${column_} of the map sees rows ${inside[1]} to ${inside[3] - 1}, columns ${inside[0]} to ${inside[2] - 1} of the face.`);
});
