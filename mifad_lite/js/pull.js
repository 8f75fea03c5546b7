// Chapter 8: centers that pull their faces and push each other, in the plane. Gradient steps by hand.
const weight = ui.slider({ label: "pushing weight", min: 0, max: 3, step: 0.05, value: 1, show: (v) => v.toFixed(2) });
const rate = ui.slider({ label: "step length", min: 0.05, max: 1, step: 0.05, value: 0.3, show: (v) => v.toFixed(2) });
const kind = ui.choice({ label: "loss", options: [["center", "center loss"], ["island", "Island loss"]], value: "island" });
let x, c;
const reset = () => { x = data.x.map((p) => [...p]); c = data.centers.map((p) => [...p]); };
reset();
ui.button({ label: "one step", press: () => step(1) });
ui.button({ label: "twenty steps", press: () => step(20) });
ui.button({ label: "start again", press: () => { reset(); c[0][0] += 1e-9; } });
const picture = ui.panel("faces (dots), centers (rings) and the way each center goes next", 340, 320);
const unit = ui.panel("the centers' directions; in the middle, their sum", 340, 320);
const [pullOut, pushOut, lossOut, sumOut] = ["pull L_C", "push", "loss", "length of the sum of directions"].map(ui.readout);
const colors = ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)"];
const X = (v) => 170 + 62 * v, Y = (v) => 160 - 62 * v, norm = (p) => Math.hypot(...p) || 1e-12;

// L_C = 1/(2N) sum |x - c_y|^2 and push = sum over k, j != k of (cos(c_k, c_j) + 1), with their gradients.
function terms() {
  const n = x.length, u = c.map((p) => p.map((v) => v / norm(p)));
  const sum = [0, 1].map((d) => u.reduce((a, p) => a + p[d], 0));
  const pull = x.reduce((a, p, i) => a + (p[0] - c[data.y[i]][0]) ** 2 + (p[1] - c[data.y[i]][1]) ** 2, 0) / (2 * n);
  const push = sum[0] ** 2 + sum[1] ** 2 - c.length + c.length * (c.length - 1);
  const lambda = kind.value === "island" ? weight.value : 0;
  const gradX = x.map((p, i) => p.map((v, d) => (v - c[data.y[i]][d]) / n));
  const gradC = c.map((p, k) => {
    const rest = [0, 1].map((d) => sum[d] - u[k][d]), along = rest[0] * u[k][0] + rest[1] * u[k][1];
    return [0, 1].map((d) => (2 * lambda * (rest[d] - along * u[k][d])) / norm(p)
      - gradX.reduce((a, g, i) => a + (data.y[i] === k ? g[d] : 0), 0));
  });
  return { u, sum, pull, push, loss: pull + lambda * push, gradX, gradC };
}
function step(times) {
  for (let t = 0; t < times; t++) {
    const { gradX, gradC } = terms();
    x = x.map((p, i) => p.map((v, d) => v - rate.value * gradX[i][d]));
    // A center moves at most a tenth of its length, so that it cannot jump over the origin.
    c = c.map((p, k) => {
      const far = rate.value * norm(gradC[k]), cap = Math.min(1, (0.1 * norm(p) + 0.01) / (far || 1));
      return p.map((v, d) => v - cap * rate.value * gradC[k][d]);
    });
  }
}
const rings = data.centers.map((_, k) => ui.handle(ui.svg("circle", { r: 11, fill: "transparent", stroke: colors[k], "stroke-width": 4 }), picture, {
  label: `center of ${data.names[k]}`, step: 6,
  get: () => [X(c[k][0]), Y(c[k][1])], set: (px, py) => { c[k] = [(px - 170) / 62, (160 - py) / 62]; },
  text: () => `${c[k][0].toFixed(1)}, ${c[k][1].toFixed(1)}`,
}));
const [back, front] = [ui.svg("g"), ui.svg("g")];
picture.append(back, ...rings, front); // the rings stay in place, so that they keep the focus
ui.draw(() => {
  const t = terms();
  rings.forEach((ring, k) => { ring.setAttribute("cx", X(c[k][0])); ring.setAttribute("cy", Y(c[k][1])); });
  const arrow = (k) => {
    const [dx, dy] = t.gradC[k].map((g) => -2 * rate.value * g), show = 1.6 / (1 + norm([dx, dy])); // a long way stays in the picture
    const [x2, y2] = [X(c[k][0] + show * dx), Y(c[k][1] + show * dy)];
    return ui.svg("path", { d: `M${X(c[k][0])} ${Y(c[k][1])}L${x2} ${y2}`, stroke: colors[k], "stroke-width": 3 });
  };
  back.replaceChildren(
    ui.svg("path", { d: "M0 160H340M170 0V320", stroke: "var(--line)" }),
    ...x.map((p, i) => ui.svg("circle", { cx: X(p[0]), cy: Y(p[1]), r: 4, fill: colors[data.y[i]] })),
    ...c.map((_, k) => arrow(k)),
  );
  front.replaceChildren(
    ...c.map((p, k) => ui.svg("text", { x: X(p[0]), y: Y(p[1]) - 16, "text-anchor": "middle" }, data.names[k])),
  );
  const R = 120, at = (p, r = R) => [170 + r * p[0], 160 - r * p[1]];
  unit.replaceChildren(
    ui.svg("circle", { cx: 170, cy: 160, r: R, fill: "none", stroke: "var(--line)" }),
    ...t.u.map((p, k) => ui.svg("path", { d: `M170 160L${at(p).join(" ")}`, stroke: colors[k], "stroke-width": 3 })),
    ui.svg("path", { d: `M170 160L${at(t.sum, R / 4).join(" ")}`, stroke: "currentColor", "stroke-width": 5 }),
    ui.svg("circle", { cx: 170, cy: 160, r: 4, fill: "currentColor" }),
    ...t.u.map((p, k) => ui.svg("text", { x: at(p, 138)[0], y: at(p, 138)[1] + 4, "text-anchor": "middle" }, data.names[k])),
  );
  Object.assign(ui.state, { x, centers: c, pull: t.pull, push: t.push, loss: t.loss, gradX: t.gradX, gradC: t.gradC });
  pullOut(t.pull.toFixed(3));
  pushOut(`${t.push.toFixed(2)} of at least ${c.length * (c.length - 2)}`);
  lossOut(t.loss.toFixed(3));
  sumOut(norm(t.sum).toFixed(2));
});
