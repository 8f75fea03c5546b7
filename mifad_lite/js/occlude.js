// Chapter 10: hide a part of a face and see what the network says. Everything comes from the record `inspection_drawn`.
const SIDE = 13, STEP = 3, PATCH = 12, UNIT = 7; // places across, pixels a step, pixels of the patch, units a pixel
const emotion = ui.choice({ label: "face", options: data.classes.map((c, i) => [i, c]), value: data.start.face });
const shows = ui.choice({ label: "map", options: [["0", "probability"], ...[4, 5, 6].map((d) => [d, `attention, depth ${d}`])] });
let [row, column] = data.start.place;
ui.button({ label: "hide what matters most", press: () => { [row, column] = [Math.floor(worst() / SIDE), worst() % SIDE]; } });
const seen = ui.panel("the face: drag the patch, or move it with the arrow keys", 340, 338);
const map = ui.panel("map", 340, 338);
const bars = ui.panel("what the network says", 340, 262);
const [trueOut, saysOut, worstOut] = ["true class", "the network now says", "true class, lowest at any place"].map(ui.readout);
const note = ui.note();
const faces = ui.unpack(data.faces), tables = data.occlusion.map((t) => ui.unpack(t));

const at = (place, c) => tables[emotion.value][7 * place + c]; // probability of class c with the patch there
const places = () => Array.from({ length: SIDE * SIDE }, (_, place) => at(place, +emotion.value));
const worst = () => places().indexOf(Math.min(...places()));
const percent = (p) => `${Math.round(100 * p)} %`;
const text = (x, y, words, anchor = "middle", more = {}) => ui.svg("text", { x, y, "text-anchor": anchor, ...more }, words);
const picture = (values, side, options = {}) => { // values as pixels, side x side, on 336 x 336 units
  const canvas = ui.el("canvas", { width: side, height: side });
  ui.paint(canvas, values, side, side, options);
  return ui.svg("image", { href: canvas.toDataURL(), x: 2, y: 0, width: 48 * UNIT, height: 48 * UNIT, style: "image-rendering: pixelated" });
};

const patch = ui.svg("rect", { width: PATCH * UNIT, height: PATCH * UNIT, stroke: "var(--c3)", "stroke-width": 3 });
const clamp = (u) => Math.min(SIDE - 1, Math.max(0, Math.round((u / UNIT - PATCH / 2) / STEP)));
ui.handle(patch, seen, {
  label: "patch", step: STEP * UNIT, text: () => `row ${row + 1}, column ${column + 1}`,
  get: () => [2 + UNIT * (STEP * column + PATCH / 2), UNIT * (STEP * row + PATCH / 2)],
  set: (x, y) => { [row, column] = [clamp(y), clamp(x - 2)]; },
});

ui.draw(() => {
  const face = +emotion.value, place = SIDE * row + column, plain = data.probabilities[face];
  const hidden = plain.map((_, c) => at(place, c)), says = hidden.indexOf(Math.max(...hidden));
  const pixels = faces.slice(2304 * face, 2304 * (face + 1)), gray = 255 * (pixels.reduce((a, b) => a + b) / 2304);
  patch.setAttribute("fill", `rgb(${[gray, gray, gray].map(Math.round)})`);
  patch.setAttribute("x", 2 + UNIT * STEP * column);
  patch.setAttribute("y", UNIT * STEP * row);
  seen.replaceChildren(picture(pixels, 48), patch);

  const X = (p) => 76 + 205 * p;
  bars.replaceChildren(...data.classes.flatMap((name, c) => {
    const y = 4 + 34 * c;
    return [
      text(70, y + 17, name, "end", c === face ? { style: "font-weight: bold" } : {}),
      ui.svg("rect", { x: 76, y: y + 3, width: 205 * hidden[c], height: 18, fill: `var(--c${c})` }),
      ui.svg("rect", { x: 76, y, width: 205 * plain[c], height: 24, fill: "none", stroke: "currentColor", "stroke-dasharray": "3 3" }),
      text(X(Math.max(hidden[c], plain[c])) + 6, y + 17, percent(hidden[c]), "start"),
    ];
  }), text(76, 256, "bar: with the patch. dashed: without", "start"));

  const depth = +shows.value, cell = (48 * UNIT) / (depth ? 48 : SIDE); // attention lies on the face itself
  const mark = depth ? { x: 2 + cell * STEP * column, y: cell * STEP * row, width: cell * PATCH, height: cell * PATCH }
    : { x: 2 + cell * column, y: cell * row, width: cell, height: cell };
  const looked = depth ? data.received[face][depth - 4] : [];
  map.replaceChildren(depth ? picture(looked, 12, { high: Math.max(3, ...looked), color: ui.heat }) : picture(places(), SIDE, { color: ui.heat }),
    ...[["#000", 6], ["#fff", 3]].map(([stroke, width]) => ui.svg("rect", { ...mark, fill: "none", stroke, "stroke-width": width })));
  map.caption(depth ? `attention that each place receives at depth ${depth}: purple 0, yellow ${Math.max(3, ...looked).toFixed(0)} times the even share`
    : `probability of ${data.classes[face]}, by place of the patch: purple 0 %, yellow 100 %`);

  trueOut(`${percent(plain[face])} → ${percent(hidden[face])}`);
  saysOut(`${data.classes[says]}, ${percent(hidden[says])}`);
  worstOut(percent(Math.min(...places())));
  note(says === face ? "With this part hidden the answer stays." : `With this part hidden the answer turns to ${data.classes[says]}.`);
  Object.assign(ui.state, { face, row, column, plain, hidden, says, worst: worst(), map: depth });
});
