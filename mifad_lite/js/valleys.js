// Chapter 13: two neurons that make |x|: its two valleys, and what the networks on the line between two others compute.
const map = ui.panel("the loss for every pair of weights: dark is low; drag A and B", 340, 330);
const graphs = ui.panel("above: the loss from A to B; below: what the network at the orange dot computes (dashed: |x|)", 340, 330);
const share = ui.slider({ label: "share of B", min: 0, max: 1, step: 0.01, value: 0.5, show: (v) => v.toFixed(2) });
ui.button({ label: "swap the neurons of B", press: () => ends[1].reverse() });
const [aOut, bOut, hereOut, wallOut] = ["loss at A", "loss at B", "loss at the dot", "wall"].map(ui.readout);
const say = ui.note();
const ends = [data.a, data.b].map((pair) => [...pair]);

// Mean over x in [-1, 1] of (relu(a x) + relu(b x) - |x|)^2: each half of the axis gives a third of its slope's error.
const plus = (v) => Math.max(v, 0), slopes = (w) => [plus(w[0]) + plus(w[1]), plus(-w[0]) + plus(-w[1])];
const loss = (w) => slopes(w).reduce((sum, slope) => sum + (slope - 1) ** 2, 0) / 6;
const at = (t) => [0, 1].map((i) => (1 - t) * ends[0][i] + t * ends[1][i]);

const R = 1.6, X = (v) => 186 + (v / R) * 140, Y = (v) => 146 - (v / R) * 140, N = 70;
const pixels = document.createElement("canvas");
pixels.width = pixels.height = N;
const place = (i) => ((2 * i + 1) / N - 1) * R;
ui.paint(pixels, Array.from({ length: N * N }, (_, i) => Math.sqrt(loss([place(i % N), -place(Math.floor(i / N))]))), N, N, { high: 0.9, color: ui.heat });
const picture = ui.svg("image", { x: X(-R), y: Y(R), width: 280, height: 280, href: pixels.toDataURL(), preserveAspectRatio: "none" });
const within = (v) => Math.min(R, Math.max(-R, v));
const handles = ["A", "B"].map((name, i) => ui.handle(ui.svg("circle", { r: 10, fill: "#fff", stroke: "#000", "stroke-width": 2 }), map, {
  label: `network ${name}`,
  get: () => [X(ends[i][0]), Y(ends[i][1])],
  set: (x, y) => { ends[i] = [within(((x - 186) / 140) * R), within(((146 - y) / 140) * R)]; },
  text: () => `weights ${ends[i].map((v) => v.toFixed(2)).join(" and ")}`,
}));
const text = (x, y, words, more = {}) => ui.svg("text", { x, y, "text-anchor": "middle", ...more }, words);
const path = (points, more) => ui.svg("path", { d: points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join(""), fill: "none", ...more });

ui.draw(() => {
  const t = share.value, here = at(t), [first, last] = ends.map(loss);
  const walk = Array.from({ length: 101 }, (_, i) => loss(at(i / 100)));
  const wall = Math.max(...walk.map((v, i) => v - (1 - i / 100) * first - (i / 100) * last));
  Object.assign(ui.state, { a: [...ends[0]], b: [...ends[1]], share: t, here, loss: loss(here), ends: [first, last], wall });

  ends.forEach(([x, y], i) => { handles[i].setAttribute("cx", X(x)); handles[i].setAttribute("cy", Y(y)); });
  map.replaceChildren(
    picture,
    path(ends.map(([x, y]) => [X(x), Y(y)]), { stroke: "#fff", "stroke-width": 2, "stroke-dasharray": "5 4" }),
    ...handles,
    ...ends.map(([x, y], i) => text(X(x), Y(y) + 4, "AB"[i], { style: "fill:#000;font-weight:bold;pointer-events:none" })),
    ui.svg("circle", { cx: X(here[0]), cy: Y(here[1]), r: 5, fill: "var(--c3)", stroke: "#fff", "pointer-events": "none" }),
    ...[-1, 0, 1].flatMap((v) => [text(X(v), 302, v), text(36, Y(v) + 4, v, { "text-anchor": "end" })]),
    text(186, 322, "weight of the first neuron"),
    text(0, 0, "weight of the second", { transform: "translate(14 146) rotate(-90)" }),
  );
  const high = Math.max(0.4, 1.05 * Math.max(...walk)), U = (s) => 44 + 280 * s, V = (v) => 122 - (110 * v) / high;
  const [right, left] = slopes(here), P = (x) => 184 + 140 * x, Q = (y) => 290 - 62 * y;
  const reach = (slope) => Math.min(1, 1.9 / slope); // where a steep line leaves its graph
  graphs.replaceChildren(
    ui.svg("path", { d: "M44 12V122H324", fill: "none", stroke: "var(--line)" }),
    path([[U(0), V(first)], [U(1), V(last)]], { stroke: "var(--line)", "stroke-dasharray": "4 3" }),
    path(walk.map((v, i) => [U(i / 100), V(v)]), { stroke: "var(--c0)", "stroke-width": 2.5 }),
    ui.svg("circle", { cx: U(t), cy: V(loss(here)), r: 6, fill: "var(--c3)" }),
    ...[0, 0.2, 0.4].filter((v) => v <= high).map((v) => text(38, V(v) + 4, v, { "text-anchor": "end" })),
    text(U(0), 140, "A"), text(U(1), 140, "B"), text(U(0.5), 140, "share of B"),
    ui.svg("path", { d: "M44 290H324M184 290V168", fill: "none", stroke: "var(--line)" }),
    path([[P(-1), Q(1)], [P(0), Q(0)], [P(1), Q(1)]], { stroke: "currentColor", "stroke-dasharray": "5 4" }),
    path([[P(-reach(left)), Q(left * reach(left))], [P(0), Q(0)], [P(reach(right)), Q(right * reach(right))]], { stroke: "var(--c3)", "stroke-width": 2.5 }),
    ...[-1, 0, 1].map((v) => text(P(v), 308, v)), text(P(0), 324, "x"),
  );
  aOut(first.toFixed(3));
  bOut(last.toFixed(3));
  hereOut(loss(here).toFixed(3));
  wallOut(wall.toFixed(3));
  say(wall < 0.01 ? "No wall: the loss on the line stays near the straight line between its ends."
    : `A wall of ${wall.toFixed(3)} stands between A and B. The zero network has a loss of ${(1 / 3).toFixed(3)}.`);
});
