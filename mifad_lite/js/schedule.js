// Chapter 9: one-cycle learning rate, margin ramp and the weight average's window, against the share of the run.
const epochs = ui.slider({ label: "epochs", min: 5, max: 100, step: 1, value: 30 });
const warmup = ui.slider({ label: "warm-up", min: 0, max: 0.9, step: 0.05, value: 0.2, show: (v) => `${Math.round(100 * v)} %` });
const ramp = ui.slider({ label: "margin ramp", min: 0, max: 1, step: 0.05, value: 0.3, show: (v) => `${Math.round(100 * v)} %` });
const horizon = ui.slider({ label: "average", min: 0.01, max: 0.2, step: 0.01, value: 0.03, show: (v) => `${Math.round(100 * v)} %` });
const picture = ui.panel("learning rate (blue), margin (orange) and the average's window (grey), as shares of their peaks", 680, 260, true);
const rateAt = ui.readout("rate at the marked epoch"), marginAt = ui.readout("margin there"), window_ = ui.readout("average looks back");
const [left, right, top, bottom] = [40, 640, 15, 215];
let at = 0.5; // share of the run at the marker
const X = (t) => left + t * (right - left), Y = (v) => bottom - v * (bottom - top);

// lr_factor in train.py: half a cosine up from 0.04 during the warm-up, half a cosine down after it.
const rate = (t) => (t < warmup.value
  ? 0.04 + 0.48 * (1 - Math.cos((Math.PI * t) / warmup.value))
  : Math.max(1e-3, (1 + Math.cos((Math.PI * (t - warmup.value)) / (1 - warmup.value))) / 2));
const margin = (t) => (ramp.value ? Math.min(1, t / ramp.value) : 1);

const marker = ui.svg("g", {}, ui.svg("rect", { x: -14, width: 28, y: top, height: bottom - top, fill: "transparent" }), ui.svg("line", { y1: top, y2: bottom, stroke: "currentColor", "stroke-dasharray": "4 4" }),
  ui.svg("circle", { cy: bottom, r: 9, fill: "var(--c3)" }));
ui.handle(marker, picture, {
  label: "epoch", step: 8, get: () => [X(at), bottom], text: () => `epoch ${(at * epochs.value).toFixed(1)}`,
  set: (x) => { at = Math.min(1, Math.max(0, (x - left) / (right - left))); },
});
const back = ui.svg("g");
picture.append(back, marker); // the marker stays in place, so that it keeps the focus
const curve = (f, color) => ui.svg("path", { fill: "none", stroke: color, "stroke-width": 2.5,
  d: Array.from({ length: 201 }, (_, i) => `${i ? "L" : "M"}${X(i / 200)} ${Y(f(i / 200))}`).join("") });
ui.draw(() => {
  const width = Math.min(at, horizon.value);
  back.replaceChildren(
    ui.svg("rect", { x: X(at - width), width: X(width) - left, y: top, height: bottom - top, fill: "var(--soft)" }),
    ui.svg("path", { d: `M${left} ${top}V${bottom}H${right}`, fill: "none", stroke: "var(--line)" }),
    curve(rate, "var(--c0)"), curve(margin, "var(--c1)"),
    ...[0, 0.5, 1].map((t) => ui.svg("text", { x: X(t), y: bottom + 28, "text-anchor": "middle" }, `epoch ${(t * epochs.value).toFixed(0)}`)),
    ...[0, 1].map((v) => ui.svg("text", { x: left - 8, y: Y(v) + 4, "text-anchor": "end" }, v)),
  );
  marker.setAttribute("transform", `translate(${X(at)} 0)`);
  Object.assign(ui.state, { at, rate: data.lr * rate(at), margin: data.margin * margin(at) });
  rateAt(ui.state.rate.toExponential(2));
  marginAt(`${ui.state.margin.toFixed(3)} rad`);
  window_(`about ${(horizon.value * epochs.value).toFixed(1)} epochs`);
});
