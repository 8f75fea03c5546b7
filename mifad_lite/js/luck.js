// Chapter 12: how far two equally good networks lie apart by luck alone, against a claimed lead.
const faces = ui.slider({ label: "test faces", min: 2.5, max: 5, step: 0.025, value: Math.log10(data.n), show: (v) => count(v).toLocaleString("en") });
const accuracy = ui.slider({ label: "true accuracy", min: 0.5, max: 0.95, step: 0.01, value: 0.74, show: (v) => `${Math.round(100 * v)} %` });
const lead = ui.slider({ label: "claimed lead", min: 0.1, max: 5, step: 0.02, value: data.lead, show: (v) => `${v.toFixed(2)} points` });
const rivals = ui.slider({ label: "rivals tried", min: 1, max: 30, step: 1, value: 7 });
const picture = ui.panel("difference of two equally good networks on one such test each, in points", 340, 230);
const curve = ui.panel("chance that at least one of the rivals lies that far off by luck", 340, 230);
const [seOut, pOut, anyOut] = ["standard error of one accuracy", "two equals differ that much", "at least one of the rivals does"].map(ui.readout);
function count(v) { return Math.abs(10 ** v - data.n) < 0.03 * data.n ? data.n : Math.round(10 ** v / 10) * 10; }

// Upper half of the normal distribution beyond z: Abramowitz and Stegun 7.1.26 is too coarse, so the continued fraction.
function tail(z) {
  if (z < 2.5) { // the series of erf
    let term = z, sum = z;
    for (let k = 1; k < 80; k++) { term *= (-z * z) / (2 * k); sum += term / (2 * k + 1); }
    return 0.5 - sum / Math.sqrt(2 * Math.PI);
  }
  let f = 0;
  for (let k = 60; k > 0; k--) f = k / (z + f);
  return Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI) / (z + f);
}
const axes = (svg, ticks, X, bottom, unit) => [
  ui.svg("path", { d: `M30 ${bottom}H330`, stroke: "var(--line)", fill: "none" }),
  ...ticks.map((t) => ui.svg("text", { x: X(t), y: bottom + 18, "text-anchor": "middle" }, `${t}${unit}`)),
];
ui.draw(() => {
  const n = count(faces.value), se = 100 * Math.sqrt((accuracy.value * (1 - accuracy.value)) / n);
  const sd = Math.SQRT2 * se, p = 2 * tail(lead.value / sd), any = 1 - (1 - p) ** rivals.value;
  Object.assign(ui.state, { n, accuracy: accuracy.value, lead: lead.value, se, p, any });
  const X = (d) => 180 + (d / 6) * 150, Y = (v) => 190 - 160 * v, bell = (d) => Math.exp(-((d / sd) ** 2) / 2);
  const area = (from, to) => {
    const points = Array.from({ length: 61 }, (_, i) => from + ((to - from) * i) / 60);
    return `M${X(from)} 190${points.map((d) => `L${X(d).toFixed(2)} ${Y(bell(d)).toFixed(2)}`).join("")}L${X(to)} 190Z`;
  };
  picture.replaceChildren(
    ui.svg("path", { d: area(-6, 6), fill: "var(--soft)", stroke: "currentColor", "stroke-width": 1.2 }),
    ...[[-6, -lead.value], [lead.value, 6]].map(([a, b]) => ui.svg("path", { d: area(a, b), fill: "var(--c3)" })),
    ...[-1, 1].map((side) => ui.svg("path", { d: `M${X(side * lead.value)} 20V190`, stroke: "var(--c3)", "stroke-dasharray": "4 3" })),
    ...axes(picture, [-6, -4, -2, 0, 2, 4, 6], X, 190, ""),
  );
  const U = (k) => 40 + (k / 30) * 285;
  const line = Array.from({ length: 30 }, (_, i) => `${i ? "L" : "M"}${U(i + 1)} ${Y(1 - (1 - p) ** (i + 1))}`).join("");
  curve.replaceChildren(
    ui.svg("path", { d: line, fill: "none", stroke: "var(--c0)", "stroke-width": 2.5 }),
    ui.svg("circle", { cx: U(rivals.value), cy: Y(any), r: 6, fill: "var(--c3)" }),
    ...[0, 0.5, 1].map((v) => ui.svg("text", { x: 32, y: Y(v) + 4, "text-anchor": "end" }, v)),
    ...axes(curve, [1, 10, 20, 30], U, 190, ""),
    ui.svg("text", { x: 185, y: 226, "text-anchor": "middle" }, "rivals tried"),
  );
  seOut(`${se.toFixed(2)} points`);
  pOut(`${(100 * p).toFixed(1)} %`);
  anyOut(`${(100 * any).toFixed(1)} %`);
});
