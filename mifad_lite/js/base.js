// What the interactive figures share: controls that work by mouse, touch and keyboard, panels, readouts, pixels.
function makeUI(root) {
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const make = (namespace) => (tag, attributes = {}, ...children) => {
    const element = document.createElementNS(namespace, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const el = make("http://www.w3.org/1999/xhtml"), svg = make("http://www.w3.org/2000/svg");
  const controls = el("div", { class: "controls" }), panels = el("div", { class: "panels" });
  const readouts = el("div", { class: "readouts" });
  const notes = [];
  let redraw = () => {};

  const ui = {
    root, data, el, svg, state: {}, // state: what the figure shows, as numbers; tests read it

    // fn() draws everything from the controls' values. Called after every change, and once by ready().
    draw(fn) { redraw = fn; },

    // A labelled slider. show(value) gives the text beside it. Returns an object whose .value is a number.
    slider({ label, min, max, step, value, show = (v) => v }) {
      const input = el("input", { type: "range", min, max, step, value, "aria-label": label });
      const output = el("output");
      const update = () => {
        output.textContent = show(+input.value);
        input.setAttribute("aria-valuetext", show(+input.value));
      };
      input.addEventListener("input", () => { update(); redraw(); });
      update();
      controls.append(el("label", { class: "control" }, el("span", {}, label), input, output));
      return { get value() { return +input.value; }, set value(v) { input.value = v; update(); }, input };
    },

    // A labelled drop-down list. options: array of [value, text] or of texts. Returns an object with .value (a string).
    choice({ label, options, value }) {
      const select = el("select", { "aria-label": label });
      for (const option of options) {
        const [key, text] = Array.isArray(option) ? option : [option, option];
        select.append(el("option", { value: key }, String(text)));
      }
      if (value !== undefined) select.value = value;
      select.addEventListener("change", () => redraw());
      controls.append(el("label", { class: "control" }, el("span", {}, label), select));
      return { get value() { return select.value; }, set value(v) { select.value = v; }, select };
    },

    // A button that does something (press) or, with on given, one that stays pressed; .on tells which.
    button({ label, press, on }) {
      const button = el("button", { type: "button" }, label);
      const result = { on, button };
      if (on !== undefined) button.setAttribute("aria-pressed", on);
      button.addEventListener("click", () => {
        if (on !== undefined) button.setAttribute("aria-pressed", (result.on = !result.on));
        press?.();
        redraw();
      });
      controls.append(button);
      return result;
    },

    // An SVG of width x height units under a caption; wide: a row of its own. At 390 px a panel is about 340 px wide.
    panel(caption, width = 340, height = 300, wide = false) {
      const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": caption });
      const figcaption = el("figcaption", {}, caption);
      panels.append(el("figure", { class: wide ? "panel wide" : "panel" }, figcaption, picture));
      picture.caption = (text) => { figcaption.textContent = text; picture.setAttribute("aria-label", text); };
      return picture;
    },

    // A canvas of width x height pixels, enlarged without smoothing, under a caption.
    raster(caption, width, height) {
      const canvas = el("canvas", { width, height, role: "img", "aria-label": caption });
      const figcaption = el("figcaption", {}, caption);
      panels.append(el("figure", { class: "panel" }, figcaption, canvas));
      canvas.caption = (text) => { figcaption.textContent = text; canvas.setAttribute("aria-label", text); };
      return canvas;
    },

    // A line "name ... value" under the figure. Returns a function that sets the value.
    readout(label) {
      const output = el("output", { "aria-live": "off" });
      readouts.append(el("div", {}, el("span", {}, label), output));
      return (text) => { output.textContent = text; };
    },

    // A sentence under the figure that is read out when it changes.
    note() {
      const line = el("p", { class: "note", "aria-live": "polite" });
      notes.push(line);
      return (text) => { if (line.textContent !== text) line.textContent = text; };
    },

    // Make an SVG element movable: by pointer to where it points, by arrow keys in steps (Shift: five times as far).
    // get() -> [x, y] and set(x, y) speak the units of `picture`; text() says the position aloud.
    handle(element, picture, { label, get, set, text, step = 4 }) {
      element.classList.add("handle");
      for (const [key, value] of Object.entries({ tabindex: 0, role: "slider", "aria-label": label }))
        element.setAttribute(key, value);
      let pointer = null; // the one that holds the element, if any
      const moved = (x, y) => {
        const focused = document.activeElement === element;
        set(x, y);
        redraw();
        element.setAttribute("aria-valuetext", text());
        // A redraw may take the element out and put it back, and then it has lost both.
        if (focused && document.activeElement !== element) element.focus({ preventScroll: true });
        if (pointer !== null && !element.hasPointerCapture(pointer)) element.setPointerCapture(pointer);
      };
      const release = () => { pointer = null; };
      element.setAttribute("aria-valuetext", text());
      element.addEventListener("pointerdown", (event) => {
        pointer = event.pointerId;
        element.setPointerCapture(pointer);
        event.preventDefault();
        element.focus({ preventScroll: true });
      });
      element.addEventListener("pointermove", (event) => {
        if (pointer !== event.pointerId) return;
        const box = picture.getBoundingClientRect(), view = picture.viewBox.baseVal;
        moved(((event.clientX - box.x) / box.width) * view.width, ((event.clientY - box.y) / box.height) * view.height);
      });
      element.addEventListener("pointerup", release);
      element.addEventListener("pointercancel", release);
      element.addEventListener("keydown", (event) => {
        const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
        if (dx === undefined) return;
        event.preventDefault();
        const [x, y] = get(), far = step * (event.shiftKey ? 5 : 1);
        moved(x + dx * far, y + dy * far);
      });
      return element;
    },

    // Bytes of interactive.pack back to numbers in [low, high].
    unpack(text, low = 0, high = 1) {
      return Float32Array.from(atob(text), (c) => low + (c.charCodeAt(0) / 255) * (high - low));
    },

    // Paint values (row by row) on a canvas or a part of it: gray for low = black to high = white, or color(t) -> [r, g, b].
    paint(canvas, values, width, height, { low = 0, high = 1, color = (t) => [255 * t, 255 * t, 255 * t], x = 0, y = 0 } = {}) {
      const context = canvas.getContext("2d"), image = context.createImageData(width, height);
      values.forEach((value, i) => {
        const t = Math.min(1, Math.max(0, (value - low) / (high - low)));
        image.data.set([...color(t), 255], 4 * i);
      });
      context.putImageData(image, x, y);
    },

    // Dark purple to yellow, readable without color; and blue - white - orange for signed values (0.5 is zero).
    heat: (t) => [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37], [253, 231, 37]]
      .slice(Math.floor(4 * t), Math.floor(4 * t) + 2)
      .reduce((a, b) => a.map((v, i) => v + (b[i] - v) * ((4 * t) % 1))),
    signed: (t) => (t < 0.5 ? [1, 115, 178] : [222, 143, 5]).map((v) => 255 + (v - 255) * Math.abs(2 * t - 1)),

    softmax(values) {
      const top = Math.max(...values), e = Array.from(values, (v) => Math.exp(v - top));
      const sum = e.reduce((a, b) => a + b);
      return e.map((v) => v / sum);
    },

    // Draw for the first time; only then does the still picture give way. A script that fails leaves the picture.
    ready() {
      redraw();
      root.state = ui.state;
      root.classList.add("live");
      if (!controls.childElementCount) controls.remove();
      root.append(controls, panels, readouts, ...notes);
    },
  };
  return ui;
}
