// Chapter 7, the paper's Figure 8: two classes and a sample in the plane; softmax beside a loss with a margin.
// The first part computes what mifad_lite/geometry.py computes, under the same names; a test compares the two.
const { PI, abs, cos, sin, sign } = Math, DEGREE = PI / 180, UNIT = 4; // the softmax panel's circle has radius 4
const psi = (theta, m) => (theta + m <= PI ? cos(theta + m) : -2 - cos(theta + m));
const wrap = (angle) => angle - 2 * PI * Math.floor((angle + PI) / (2 * PI));
const onCircle = (phi, angles) => angles.map((a) => abs(wrap(phi - a)));
const logits = (theta, y, { s, m, drop }) => theta.map((t, j) => s[j] * (j === y ? psi(t, m) - drop : cos(t)));
function evaluate(phi, angles, y, rule) { // everything about one sample under one loss
  const theta = onCircle(phi, angles), z = logits(theta, y, rule), p = ui.softmax(z), top = Math.max(...z);
  const partial = theta.map((t, j) => (p[j] - (j === y)) * rule.s[j] * (j === y ? -abs(sin(t + rule.m)) : -sin(t)));
  return { theta, logits: z, probability: p[y], partial, loss: top + Math.log(z.reduce((a, v) => a + Math.exp(v - top), 0)) - z[y],
    slope: partial.reduce((a, g, j) => a + g * sign(wrap(phi - angles[j])), 0) };
}
function region(angles, own, { s, m, drop }) {
  const rival = 1 - own, part = (f) => s[own] * f(angles[own]) - s[rival] * f(angles[rival]);
  const [x, y] = [part(cos), part(sin)], middle = Math.atan2(y, x), t = (s[own] * drop) / Math.hypot(x, y);
  const half = m ? (m < onCircle(angles[own], angles)[rival] ? (PI - m) / 2 : 0) : t < 1 ? Math.acos(t) : 0;
  return half > 0 ? [middle - half, middle + half] : null;
}
function bandWidth(gap, { m, drop }) {
  const t = drop / (2 * sin((gap + m) / 2)), width = m + 2 * Math.asin(Math.min(1, t));
  return t <= 1 && width <= gap ? width : null;
}

const degrees = (v) => `${v.toFixed(1)}°`, angleOf = (label, value) => ui.slider({ label, min: -180, max: 180, step: 0.5, value, show: degrees });
const kind = ui.choice({ label: "loss", value: "angular", options: [["normalised", "normalised softmax"], ["angular", "angular distance"], ["cosine", "cosine margin"]] });
const truth = ui.choice({ label: "true class", options: [["0", "1 (blue)"], ["1", "2 (orange)"]] });
const sSlider = ui.slider({ label: "scale s", min: 1, max: 64, step: 0.5, value: 16 });
const mSlider = ui.slider({ label: "margin m", min: 0, max: 1.5, step: 0.01, value: 0.5, show: (v) => v.toFixed(2) });
const directions = [angleOf("class 1", 130), angleOf("class 2", 50)], place = angleOf("sample", 100);
const shown = ui.choice({ label: "last panel", options: [["slope", "gradient"], ["probability", "probability"], ["loss", "loss"], ["space", "angle space"]] });
const norms = [5, 3, 4]; // |W_1|, |W_2|, |x|: what only plain softmax reads
const captions = { normalised: "normalised softmax: directions alone", angular: "angular distance: hatched, the margin band", cosine: "cosine margin: hatched, its band" };
const left = ui.panel("softmax: the lengths of W₁, W₂ and x count"), right = ui.panel(captions.angular);
const low = ui.panel("logits against the true class's angle θ"), curve = ui.panel("gradient");
const [C, R] = [[170, 150], 100], INK = ["var(--c0)", "var(--c1)", "var(--c3)"], { svg } = ui;
const lines = Object.fromEntries(["angles θ₁, θ₂", "band between the classes", "class 1 content where", "class 2 content where", "logits, softmax", "logits, right", "p(true), softmax | right", "loss, softmax | right", "∂loss/∂θ of the true class", "dloss/dθ along the circle"]
  .map((name) => [name, ui.readout(name)]));
const say = ui.note();
ui.root.append(ui.el("style", {}, "#mifad-figure8 .control { flex-basis: 18rem } #mifad-figure8 .readouts { grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)) }"));

const xy = (angle, r) => [C[0] + r * cos(angle), C[1] - r * sin(angle)], at = (p) => p.map((v) => v.toFixed(2)).join(" ");
const arc = (from, to, r) => Array.from({ length: 49 }, (_, i) => `${i ? "L" : "M"}${at(xy(from + ((to - from) * i) / 48, r))}`).join("");
const wedge = (from, to, more) => svg("path", { d: `${arc(from, to, 400)}L${at(C)}Z`, stroke: "none", ...more });
const line = (a, b, more) => svg("path", { d: `M${at(a)}L${at(b)}`, fill: "none", stroke: "currentColor", ...more });
const text = (p, words, more) => svg("text", { x: p[0], y: p[1], "text-anchor": "middle", ...more }, words);
const dot = (p, fill, more) => svg("circle", { cx: p[0], cy: p[1], r: 5, fill, ...more });

// Three handles in each plane: the class directions and the sample. On the right only the angle can move.
const radius = (j, plane) => (plane === left ? (R * norms[j]) / UNIT : R);
const pictures = [left, right, low, curve].map((plane) => {
  const drawing = svg("g");
  if (plane === right) plane.append(svg("defs", {}, svg("pattern", { id: "mifad-figure8-hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("path", { d: "M0 0V7", stroke: "currentColor", "stroke-width": 2.4, opacity: 0.45 }))));
  plane.append(drawing);
  if (plane !== left && plane !== right) return { plane, drawing };
  const handles = [...directions, place].map((slider, j) => {
    const shape = j < 2 ? { r: 9, fill: INK[j] } : { r: 8, fill: INK[2], stroke: "currentColor", "stroke-width": 1.5 };
    const knob = svg("circle", shape);
    if (plane === right) knob.addEventListener("keydown", (event) => { // arrow keys turn what can only turn
      const turn = { ArrowLeft: 2, ArrowUp: 2, ArrowRight: -2, ArrowDown: -2 }[event.key];
      if (!turn) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      slider.value = wrap((slider.value + turn * (event.shiftKey ? 5 : 1)) * DEGREE) / DEGREE;
      slider.input.dispatchEvent(new Event("input"));
      knob.setAttribute("aria-valuetext", degrees(slider.value));
    });
    const handle = ui.handle(knob, plane, {
      label: `${["class 1", "class 2", "sample"][j]}, ${plane === left ? "direction and length" : "direction"}`,
      get: () => xy(slider.value * DEGREE, radius(j, plane)),
      set: (x, y) => {
        slider.value = Math.atan2(C[1] - y, x - C[0]) / DEGREE;
        if (plane === left) norms[j] = Math.min(5.4, Math.max(1, (UNIT * Math.hypot(x - C[0], y - C[1])) / R));
      },
      text: () => `${degrees(slider.value)}, length ${norms[j].toFixed(1)}`,
    });
    plane.append(handle);
    return handle;
  });
  return { plane, drawing, handles };
});

function drawPlane({ plane, drawing, handles }, angles, phi, arcs) {
  const soft = plane === left, middle = (a) => (a[0] + a[1]) / 2, parts = [];
  arcs.forEach((a, j) => a && parts.push(wedge(...a, { fill: INK[j], opacity: 0.2 })));
  const gaps = arcs[0] && arcs[1] ? [[arcs[0][1], arcs[1][0]], [arcs[1][1], arcs[0][0]]] : arcs[0] || arcs[1] ? [] : [[0, 2 * PI]];
  for (const [from, to] of gaps) {
    const width = to - from > 1.999 * PI ? 2 * PI : wrap(to - from);
    if (width > 1e-6 && !soft) parts.push(wedge(from, from + width, { fill: "url(#mifad-figure8-hatch)" }));
  }
  for (const end of soft ? arcs[0] ?? [] : region(angles, 0, { s: [1, 1], m: 0, drop: 0 }) ?? []) // where the prediction changes
    parts.push(line(C, xy(end, 400), { "stroke-width": 2, "stroke-dasharray": soft ? "none" : "6 4" }));
  parts.push(svg("circle", { cx: C[0], cy: C[1], r: R, fill: "none", stroke: "var(--line)" }), dot(C, "currentColor", { r: 2 }));
  angles.forEach((a, j) => {
    const turn = wrap(phi - a);
    parts.push(line(C, xy(a, radius(j, plane)), { stroke: INK[j], "stroke-width": 3 }),
      svg("path", { d: arc(a, a + turn, 26 + 12 * j), fill: "none", stroke: INK[j], "stroke-width": 2 }),
      text(xy(a, radius(j, plane) + (soft ? 20 : 22)), ["W₁", "W₂"][j], { dy: 4 }));
  });
  parts.push(line(C, xy(phi, radius(2, plane)), { stroke: INK[2], "stroke-width": 2 }), text(xy(phi, radius(2, plane) + 19), "x", { dy: 4 }));
  drawing.replaceChildren(...parts);
  handles.forEach((h, j) => at(xy([...angles, phi][j], radius(j, plane))).split(" ").forEach((v, i) => h.setAttribute(["cx", "cy"][i], v)));
}

const box = { left: 48, right: 325, top: 14, bottom: 250 };
function axes(drawing, [x0, x1], [y0, y1], labels, children) { // children: functions of (X, Y)
  const X = (v) => box.left + ((v - x0) / (x1 - x0)) * (box.right - box.left), Y = (v) => box.bottom - ((v - y0) / (y1 - y0)) * (box.bottom - box.top);
  const digits = y1 - y0 < 3 ? 2 : y1 - y0 < 20 ? 1 : 0, ticks = [0, 60, 120, 180].map((v) => text([X(v * DEGREE), box.bottom + 17], `${v}°`));
  const levels = labels.square ? [0, 60, 120, 180].map((v) => [v * DEGREE, `${v}°`]) : [y0, (y0 + y1) / 2, y1].map((v) => [v, v.toFixed(digits)]);
  drawing.replaceChildren(svg("path", { d: `M${box.left} ${box.top}V${box.bottom}H${box.right}`, fill: "none", stroke: "var(--line)" }), ...ticks,
    ...levels.map(([v, words]) => text([box.left - 5, Y(v) + 4], words, { "text-anchor": "end" })), text([(box.left + box.right) / 2, box.bottom + 36], labels.x),
    ...children(X, Y).filter(Boolean));
}
const path = (points, more) => svg("path", { d: points.map((p, i) => `${i ? "L" : "M"}${at(p)}`).join(""), fill: "none", stroke: "currentColor", "stroke-width": 2.5, ...more });
const grid = Array.from({ length: 181 }, (_, i) => i * DEGREE);

ui.draw(() => {
  const angles = directions.map((d) => d.value * DEGREE), phi = place.value * DEGREE, y = +truth.value, s = sSlider.value, m = mSlider.value;
  const plain = { s: [norms[2] * norms[0], norms[2] * norms[1]], m: 0, drop: 0 };
  const rule = { s: [s, s], m: kind.value === "angular" ? m : 0, drop: kind.value === "cosine" ? m : 0 };
  const [softmax, chosen] = [plain, rule].map((r) => ({ ...evaluate(phi, angles, y, r), regions: [0, 1].map((own) => region(angles, own, r)) }));
  const { theta } = chosen, gap = onCircle(angles[0], angles)[1], band = bandWidth(gap, rule), side = sign(wrap(phi - angles[y])) || 1;
  Object.assign(ui.state, { angles, norms: [...norms], phi, true: y, s, m, kind: kind.value, theta, gap, band, softmax, chosen, continued: theta[y] + rule.m > PI });
  drawPlane(pictures[0], angles, phi, softmax.regions);
  drawPlane(pictures[1], angles, phi, chosen.regions);
  right.caption(captions[kind.value]);

  const walk = grid.map((t) => [plain, rule].map((r) => evaluate(angles[y] + side * t, angles, y, r))); // away from the true class
  const ask = chosen.regions[y] && onCircle(chosen.regions[y][side > 0 ? 1 : 0], angles)[y]; // its own boundary on this side
  axes(pictures[2].drawing, [0, PI], [s * Math.min(-1, psi(PI, rule.m) - rule.drop), s], { x: "θ between sample and true class" }, (X, Y) => [
    rule.m && path(grid.filter((t) => t + m >= PI).map((t) => [X(t), Y(s * cos(t + m))]), { "stroke-dasharray": "2 4", stroke: "var(--c3)" }),
    path(grid.map((t) => [X(t), Y(s * cos(t))]), { "stroke-width": 1, "stroke-dasharray": "5 3" }),
    ...[y, 1 - y].map((j) => path(grid.map((t, i) => [X(t), Y(walk[i][1].logits[j])]), { stroke: INK[j] })),
    ask !== null && line([X(ask), box.top], [X(ask), box.bottom], { "stroke-dasharray": "6 4", stroke: "var(--line)" }),
    ...[y, 1 - y].map((j) => dot([X(theta[y]), Y(chosen.logits[j])], INK[j], { stroke: INK[2], "stroke-width": 2 })),
    ...["thick: true class and rival", "thin: no margin", ...(rule.m ? ["dotted: not continued"] : [])]
      .map((words, i) => text([box.left + 8, box.bottom - 42 + 16 * i], words, { "text-anchor": "start" })),
  ]);
  const what = shown.value, view = pictures[3];
  curve.caption({ slope: "gradient: dloss/dθ along the circle", probability: "probability of the true class", loss: "loss", space: "angle space: θ₁ across, θ₂ up" }[what]);
  if (what === "space") axes(view.drawing, [0, PI], [0, PI], { x: "θ₁", square: true }, (X, Y) => [
    svg("path", { d: `M${[[gap, 0], [0, gap], [PI - gap, PI], [PI, PI - gap]].map((p) => at([X(p[0]), Y(p[1])])).join("L")}Z`, fill: "var(--soft)", stroke: "var(--line)" }),
    path([[X(0), Y(0)], [X(PI), Y(PI)]], { "stroke-dasharray": "6 4", "stroke-width": 1.5 }),
    ...[0, 1].map((j) => { // psi(theta_j) - drop = cos(theta_rival)
      const points = grid.map((t) => [t, psi(t, rule.m) - rule.drop]).filter((p) => p[1] >= -1).map(([t, c]) => [t, Math.acos(c)]);
      return path(points.map((p) => (j ? [X(p[1]), Y(p[0])] : [X(p[0]), Y(p[1])])), { stroke: INK[j] });
    }),
    dot([X(theta[0]), Y(theta[1])], INK[2], { r: 6 }),
  ]);
  else {
    const value = (e) => (what === "slope" ? e.slope * side : e[what]), all = walk.flat().map(value);
    const top = what === "probability" ? 1 : Math.max(...all, 0.01), bottom = Math.min(0, ...all);
    axes(view.drawing, [0, PI], [bottom, top], { x: "θ between sample and true class" }, (X, Y) => [
      line([X(0), Y(0)], [X(PI), Y(0)], { stroke: "var(--line)" }),
      ...[0, 1].map((k) => path(grid.map((t, i) => [X(t), Y(value(walk[i][k]))]), k ? {} : { stroke: "var(--c6)", "stroke-dasharray": "7 4" })),
      ask !== null && line([X(ask), box.top], [X(ask), box.bottom], { "stroke-dasharray": "6 4", stroke: "var(--line)" }),
      ...[softmax, chosen].map((e, k) => dot([X(theta[y]), Y(value(e))], INK[2], k ? {} : { opacity: 0.6 })),
      text(what === "loss" ? [box.left + 62, box.top + 8] : [box.right - 50, box.top + 8], "softmax: dashed"),
    ]);
  }

  const pair = (v) => v.map((n) => n.toFixed(2)).join(", "), both = (f) => `${f(softmax).toFixed(4)} | ${f(chosen).toFixed(4)}`;
  const content = (j) => (band === null ? "not on its direction" : `θ${"₁₂"[j]} < ${degrees(((gap - band) / 2) / DEGREE)}`);
  [theta.map((t) => degrees(t / DEGREE)).join(", "), band === null ? "wider than the gap" : `${band.toFixed(3)} rad = ${degrees(band / DEGREE)}`,
    content(0), content(1), pair(softmax.logits), pair(chosen.logits),
    both((e) => e.probability), both((e) => e.loss), both((e) => e.partial[y]), both((e) => e.slope * side)]
    .forEach((words, i) => Object.values(lines)[i](words));
  const right_ = theta[y] < theta[1 - y], happy = chosen.logits[y] > chosen.logits[1 - y];
  say(`${right_ ? "The prediction is right" : "The prediction is wrong"}${right_ && !happy ? ", but the sample is in the band: for its loss that is not enough" : happy ? " and the loss agrees" : ""}.`
    + (rule.m >= gap ? " The margin is at least the angle between the classes: no direction can satisfy it." : "") + (ui.state.continued ? " θ + m is past 180°: the logit follows the continuation." : ""));
});
