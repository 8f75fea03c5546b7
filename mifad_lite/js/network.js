// Chapter 6: Figure 1 with dials. Sizes, parameters and multiply-adds of every part, from integer formulas.
const sets = { "7-5-3": [7, 5, 3], "3-5": [3, 5], "3-5-7-9": [3, 5, 7, 9], "3": [3] };
const kernels = ui.choice({ label: "columns", options: [["7-5-3", "7, 5, 3 (the paper)"], ["3-5", "3, 5"], ["3-5-7-9", "3, 5, 7, 9"], ["3", "3 alone"]] });
const width = ui.slider({ label: "width of the columns", min: 4, max: 64, step: 4, value: 16 });
const channels = ui.slider({ label: "channels C", min: 8, max: 128, step: 8, value: 48 });
const grid = ui.slider({ label: "pooling grid", min: 1, max: 6, step: 1, value: 3, show: (v) => `${v} x ${v}` });
const embedding = ui.slider({ label: "embedding E", min: 16, max: 256, step: 16, value: 128 });
const part = ui.choice({ label: "bars show", options: [["macs", "multiply-adds"], ["params", "parameters"]] });
const left = ui.panel("", 340, 300), right = ui.panel("", 340, 160);
const [paramsOut, macsOut, columnsOut] = ["parameters", "multiply-adds for one face", "share of the columns"].map(ui.readout);
const color = { 9: "var(--c4)", 7: "var(--c1)", 5: "var(--c0)", 3: "var(--c2)" };
const count = (v) => (v >= 1e6 ? `${(v / 1e6).toFixed(v < 1e7 ? 2 : 1)} M` : v >= 1e4 ? `${Math.round(v / 1e3)} k` : String(v));

// Widths of the six depths grow by 1, 2, 3, 4, 4, 4 times the dial; pools after depths 1 and 3.
function parts() {
  const ks = sets[kernels.value], C = channels.value, E = embedding.value, K = ks.length, n = 144;
  const w = [1, 2, 3, 4, 4, 4].map((f) => f * width.value), sides = [48, 24, 24, 12, 12, 12], list = [];
  for (const k of ks) {
    w.forEach((out, i) => {
      const weights = k * k * (i ? w[i - 1] : 1) * out;
      list.push({ at: [`column ${k}`, i], color: color[k], params: weights + (i < 5 ? 2 * out : out), macs: weights * sides[i] ** 2 });
    });
  }
  for (let d = 3; d < 6; d++) {
    const align = w[d] === C ? 0 : K;
    const conv = align * w[d] * C + 9 * K * C * C + (K + 1) * C * C; // align, gate, project: at every place
    const params = conv + align * C + C + 2 * C + (C * C + C + 1 + 2 * C + 1) + (18 + 1 + 1 + 2 + 1);
    list.push({ at: ["fusion", d], color: "var(--c5)", params, macs: conv * n + C * C + C * C * n + 18 * n + n * n * C });
  }
  const flat = 3 * C * grid.value ** 2;
  list.push({ at: ["embedding", 6], color: "var(--c6)", params: flat * E + 2 * E, macs: flat * E });
  list.push({ at: ["classes", 7], color: "var(--c3)", params: 7 * E, macs: 7 * E });
  return list;
}
// The bars of one panel: columns at their depths in rows, or what follows them side by side, all at one scale.
function bars(panel, list, heads, place, tall, most) {
  const kind = part.value, wide = 44;
  panel.replaceChildren(
    ...heads.map(([x, text]) => ui.svg("text", { x, y: 12, "text-anchor": "middle" }, text)),
    ...list.flatMap((p) => {
      const [x, base] = place(p), high = Math.max(1, (tall * p[kind]) / most);
      return [
        ui.svg("rect", { x: x - wide / 2, y: base - high, width: wide, height: high, fill: p.color }),
        ui.svg("path", { d: `M${x - wide / 2} ${base}h${wide}`, stroke: "var(--line)" }),
        ui.svg("text", { x, y: base + 14, "text-anchor": "middle" }, count(p[kind])),
      ];
    }),
  );
}
ui.draw(() => {
  const list = parts(), kind = part.value, isColumn = (p) => p.at[0].startsWith("column");
  const total = (f) => list.reduce((a, p) => a + p[f], 0), most = Math.max(...list.map((p) => p[kind]));
  const rows = [...new Set(list.filter(isColumn).map((p) => p.at[0]))], step = 282 / rows.length, tall = Math.min(step - 22, 120);
  const X = (c) => 66 + 50 * c, Y = (r) => 18 + step * (r + 1) - 16, what = kind === "macs" ? "multiply-adds" : "parameters";
  left.caption(`${what}: columns, by depth`);
  right.caption(`${what}, same scale: what follows`);
  bars(left, list.filter(isColumn), [1, 2, 3, 4, 5, 6].map((d, i) => [X(i), d]), (p) => [X(p.at[1]), Y(rows.indexOf(p.at[0]))], tall, most);
  left.append(...rows.map((name, r) => ui.svg("text", { x: 2, y: Y(r) }, name.replace("column ", "").replace(/(.)/, "$1 x $1"))));
  const rest = list.filter((p) => !isColumn(p)), names = ["fusion 4", "fusion 5", "fusion 6", "embed", "classes"];
  bars(right, rest, names.map((n, i) => [32 + 67 * i, n]), (p) => [32 + 67 * rest.indexOf(p), 20 + Math.max(tall, 60)], tall, most);
  const columns = list.filter(isColumn).reduce((a, p) => a + p[kind], 0);
  Object.assign(ui.state, { params: total("params"), macs: total("macs"), columns: columns / total(kind) });
  paramsOut(total("params").toLocaleString("en"));
  macsOut(total("macs").toLocaleString("en"));
  columnsOut(`${Math.round(100 * ui.state.columns)} % of the ${kind === "macs" ? "multiply-adds" : "parameters"}`);
});
