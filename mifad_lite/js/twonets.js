// Chapter 11: two networks on the same faces: their two intervals, who is right where, and McNemar's exact test.
const share = (v) => `${Math.round(100 * v)} %`;
const faces = ui.slider({ label: "test faces", min: 2, max: 5, step: 0.025, value: Math.log10(data.n), show: (v) => count(v).toLocaleString("en") });
const accuracy = ui.slider({ label: "accuracy of A", min: 0.5, max: 0.95, step: 0.01, value: data.accuracy, show: share });
const gap = ui.slider({ label: "A is ahead by", min: 0.05, max: 6, step: 0.01, value: data.points, show: (v) => `${v.toFixed(2)} points` });
const split = ui.slider({ label: "only one is right", min: 0.01, max: 0.5, step: 0.01, value: data.disagree, show: share });
const pair = ui.panel("each network's accuracy with its 95 % interval", 340, 150);
const table = ui.panel("the same faces, counted twice", 340, 150);
const curve = ui.panel("chance that the test sees the difference (p < 0.05), against the number of test faces", 340, 210);
const [pOut, apartOut, overlapOut, needOut] = [
  "p of the paired test (McNemar, exact)", "p as if each had its own faces", "the two intervals", "faces for a chance of 80 %"].map(ui.readout);
const say = ui.note();
function count(v) { return Math.abs(10 ** v - data.n) < 0.03 * data.n ? data.n : Math.round(10 ** v / 10) * 10; }

// Two-sided p of b against c under a fair coin: the largest term of the tail by logarithms, the rest by its neighbour.
function exact(b, c) {
  const n = b + c, low = Math.min(b, c);
  let log = -n * Math.LN2, term = 1, sum = 1;
  for (let k = 1; k <= low; k++) log += Math.log((n - k + 1) / k);
  for (let k = low; k > 0 && term > 1e-18 * sum; k--) { term *= k / (n - k + 1); sum += term; }
  return b === c ? 1 : Math.min(1, 2 * Math.exp(log) * sum);
}
function below(z) { // the normal distribution up to z, Abramowitz and Stegun 7.1.26
  const x = Math.abs(z) / Math.SQRT2, t = 1 / (1 + 0.3275911 * x);
  const tail = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592].reduce((s, a) => (s + a) * t, 0) * Math.exp(-x * x) / 2;
  return z < 0 ? tail : 1 - tail;
}
function wilson(p, n, z2 = 1.959963984540054 ** 2) {
  const middle = (p + z2 / (2 * n)) / (1 + z2 / n);
  const half = Math.sqrt((p * (1 - p) * z2) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n);
  return [middle - half, middle + half];
}
const text = (x, y, words, more = {}) => ui.svg("text", { x, y, ...more }, words);

ui.draw(() => {
  const n = count(faces.value), d = gap.value / 100, a = accuracy.value;
  const q = Math.min(Math.max(split.value, d), 2 * a - d, 2 * (1 - a) + d); // no cell of the table below zero
  const b = Math.round((n * (q + d)) / 2), c = Math.round((n * (q - d)) / 2), both = Math.round(n * a) - b;
  const neither = n - both - b - c, first = (both + b) / n, second = (both + c) / n, p = exact(b, c);
  const middle = (first + second) / 2, z = (first - second) / Math.sqrt((2 * middle * (1 - middle)) / n);
  const ends = [wilson(first, n), wilson(second, n)], overlap = ends[0][0] < ends[1][1];
  const spread = Math.sqrt(q - d * d), power = (m) => below((d * Math.sqrt(m) - 1.959964 * Math.sqrt(q)) / spread);
  const need = ((1.959964 * Math.sqrt(q) + 0.841621 * spread) / d) ** 2;
  Object.assign(ui.state, { n, only_a: b, only_b: c, both, neither, p, apart: 2 * below(-Math.abs(z)), overlap, need, power: power(n) });

  const reach = Math.max(ends[0][1] - middle, middle - ends[1][0]) * 1.15, X = (v) => 180 + ((v - middle) / reach) * 140;
  pair.replaceChildren(
    ui.svg("path", { d: "M40 112H320", stroke: "var(--line)" }),
    ...[-1, 0, 1].map((t) => text(180 + 115 * t, 132, `${(100 * (middle + (t * reach * 115) / 140)).toFixed(1)} %`, { "text-anchor": "middle" })),
    ...ends.flatMap(([low, high], i) => [
      text(12, 44 + 40 * i, "AB"[i], { "font-weight": "bold" }),
      ui.svg("path", { d: `M${X(low)} ${40 + 40 * i}H${X(high)}M${X(low)} ${33 + 40 * i}v14M${X(high)} ${33 + 40 * i}v14`, stroke: `var(--c${i})`, "stroke-width": 3 }),
      ui.svg("circle", { cx: X(i ? second : first), cy: 40 + 40 * i, r: 6, fill: `var(--c${i})` }),
    ]),
  );
  const cells = [[both, 95, 30, "var(--soft)"], [b, 205, 30, "var(--c0)"], [c, 95, 85, "var(--c1)"], [neither, 205, 85, "var(--soft)"]];
  table.replaceChildren(
    text(149, 20, "B right", { "text-anchor": "middle" }), text(259, 20, "B wrong", { "text-anchor": "middle" }),
    text(88, 60, "A right", { "text-anchor": "end" }), text(88, 115, "A wrong", { "text-anchor": "end" }),
    ...cells.flatMap(([value, x, y, fill], i) => [
      ui.svg("rect", { x, y, width: 108, height: 53, fill, "fill-opacity": i % 3 ? 0.35 : 1 }),
      text(x + 54, y + 32, value.toLocaleString("en"), { "text-anchor": "middle", "font-weight": i % 3 ? "bold" : "normal" }),
    ]),
  );
  const L = (m) => 36 + ((Math.log10(m) - 2) / 3) * 290, Y = (v) => 165 - 140 * v;
  const path = Array.from({ length: 121 }, (_, i) => { const m = 10 ** (2 + i / 40); return `${i ? "L" : "M"}${L(m).toFixed(1)} ${Y(power(m)).toFixed(1)}`; });
  curve.replaceChildren(
    ui.svg("path", { d: `M36 25V165H326M36 ${Y(0.8)}H326`, fill: "none", stroke: "var(--line)" }),
    ...[0, 0.8].map((v) => text(30, Y(v) + 4, share(v), { "text-anchor": "end", "font-size": 11 })),
    ...[100, 1000, 10000, 100000].map((m) => text(L(m), 184, m.toLocaleString("en"), { "text-anchor": m > 1e4 ? "end" : "middle" })),
    ui.svg("path", { d: path.join(""), fill: "none", stroke: "var(--c0)", "stroke-width": 2.5 }),
    ui.svg("path", { d: `M${L(n)} ${Y(0)}V${Y(power(n))}`, stroke: "var(--c3)", "stroke-dasharray": "4 3" }),
    ui.svg("circle", { cx: L(n), cy: Y(power(n)), r: 6, fill: "var(--c3)" }),
  );
  const short = (v) => (v < 0.0001 ? v.toExponential(0) : v.toFixed(4));
  pOut(short(p));
  apartOut(short(ui.state.apart));
  overlapOut(overlap ? "overlap" : "do not overlap");
  needOut(Math.ceil(need).toLocaleString("en"));
  const odd = q === split.value ? "" : ` (at this accuracy and lead the share is ${share(q)} at ${q < split.value ? "most" : "least"})`;
  say(`One alone is right on ${(b + c).toLocaleString("en")} faces, ${b.toLocaleString("en")} of them A${odd}: the test ${p < 0.05 ? "sees" : "does not see"} a difference.`);
});
