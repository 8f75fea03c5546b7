// The network in the page: a face goes in, and the seven probabilities, the maps and the angles come out.
// onnxruntime-web computes. All is loaded from the book's own folder, as scripts: so it also works opened from disk.
(() => {
  const root = document.getElementById("mifad-face");
  const base = new URL(".", document.currentScript.src);
  const SIZE = 48, STAGE = 320, LONG = 1024, MOST = 100e6; // pixels: the network's, the stage's, a source's side, a picture's
  const PLACES = 12, SHOWN = 8;

  // --- small things -----------------------------------------------------------------------------------------------
  const make = (space) => (tag, attributes = {}, ...children) => {
    const element = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const el = make("http://www.w3.org/1999/xhtml"), svg = make("http://www.w3.org/2000/svg");
  const canvas = (width, height, label) => el("canvas", { width, height, ...(label ? { role: "img", "aria-label": label } : {}) });
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
  const percent = (p) => `${(100 * p).toFixed(p < 0.0995 || p >= 0.9995 ? 1 : 0)} %`;
  const loaded = new Map();
  const script = (path) => {
    if (!loaded.has(path)) loaded.set(path, new Promise((done, fail) => {
      const tag = el("script", { src: new URL(path, base) });
      tag.onload = done;
      tag.onerror = () => { loaded.delete(path); fail(new Error(`${path} is missing from this copy of the book: build it again`)); };
      document.head.append(tag);
    }));
    return loaded.get(path);
  };
  const bytes = (text) => {
    const binary = atob(text), out = new Uint8Array(binary.length);
    for (let i = 0; i < out.length; i++) out[i] = binary.charCodeAt(i);
    return out;
  };
  const unzip = async (text) =>
    new Uint8Array(await new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  const heat = (t) => {
    const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
    const i = Math.min(3, Math.floor(4 * t)), part = 4 * t - i;
    return stops[i].map((v, c) => v + (stops[i + 1][c] - v) * part);
  };
  const gray = (t) => [255 * t, 255 * t, 255 * t];
  const paint = (target, values, width, height, low, high, color) => {
    const context = target.getContext("2d"), image = context.createImageData(width, height);
    const span = high - low || 1;
    for (let i = 0; i < values.length; i++) {
      const [r, g, b] = color(clamp((values[i] - low) / span, 0, 1));
      image.data.set([r, g, b, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  };

  if (typeof WebAssembly !== "object" || typeof DecompressionStream !== "function") {
    root.querySelector(".why").textContent =
      "This browser has no WebAssembly, or it is switched off, so the network cannot run here. The picture above shows one result.";
    root.classList.add("cannot");
    return;
  }

  // --- what stands on the page --------------------------------------------------------------------------------------
  const status = el("p", { class: "status", role: "status" });
  const button = (label, press, pressed) => {
    const out = el("button", { type: "button", ...(pressed === undefined ? {} : { "aria-pressed": pressed }) }, label);
    out.addEventListener("click", () => Promise.resolve(press()).catch(tell));
    return out;
  };
  const start = button("Start the network", () => begin());
  const network = el("select", { "aria-label": "network" },
    el("option", { value: "drawn" }, "trained on drawn faces"), el("option", { value: "lite" }, "trained on photographs"));
  const file = el("input", { type: "file", accept: "image/*", "aria-label": "a picture from this machine" });
  const sources = {
    faces: button("Drawn faces", () => choose("faces"), false),
    draw: button("Draw one", () => choose("draw"), false),
    file: button("A picture", () => file.click(), false),
    camera: button("Camera", () => choose("camera"), false),
  };
  const thumbs = el("div", { class: "thumbs", role: "group", "aria-label": "drawn faces" });
  const pencils = el("div", { class: "pencils", role: "group", "aria-label": "pencil" });
  const stage = el("canvas", {
    width: STAGE, height: STAGE, tabindex: 0, role: "application",
    "aria-label": "the picture with the square that the network sees: arrow keys move it, plus and minus change its size",
  });
  const seen = canvas(SIZE, SIZE, "what the network sees, 48 by 48 pixels");
  const slider = (label, min, max, step, value, show) => {
    const input = el("input", { type: "range", min, max, step, value, "aria-label": label }), output = el("output");
    const set = (v) => { input.value = v; output.textContent = show(+input.value); input.setAttribute("aria-valuetext", show(+input.value)); };
    set(value);
    return { input, set, row: el("label", { class: "control" }, el("span", {}, label), input, output) };
  };
  const size = slider("size of the square", 10, 100, 1, 100, (v) => `${v} %`);
  const turn = slider("turn", -45, 45, 1, 0, (v) => `${v}°`);
  const light = slider("light", 40, 200, 5, 100, (v) => `${v} %`);
  const follow = el("input", { type: "checkbox", checked: "" });
  const followRow = el("label", { class: "control check" }, follow, el("span", {}, "find the face"));
  const sentence = el("p", { class: "sentence", "aria-live": "polite" });
  const rows = el("tbody");
  const table = el("table", { class: "scores" },
    el("thead", {}, el("tr", {}, ...["label", "score", "angle", "wrong when it says so", "misses"].map((t) => el("th", { scope: "col" }, t)))), rows);
  const fan = svg("svg", { viewBox: "-125 -112 250 132", role: "img", "aria-label": "the embedding's angle to each class" });
  const depth = el("select", { "aria-label": "depth of the maps" }, ...[1, 2, 3, 4, 5, 6].map((d) => el("option", { value: d }, `depth ${d}`)));
  const maps = el("div", { class: "maps" });
  const channel = canvas(1, 1, "channel attention: rows are channels, columns the channels they draw from");
  const spatial = canvas(PLACES, PLACES, "spatial attention: how much weight each place of the face gets, on average");
  const attention = el("p", { class: "small" });
  const speed = el("p", { class: "small speed" });
  const figure = (caption, ...content) => el("figure", {}, el("figcaption", {}, caption), ...content);
  const live = el("div", { class: "live", hidden: "" },
    el("div", { class: "bar" }, ...Object.values(sources), file, el("label", { class: "control" }, el("span", {}, "network"), network)),
    thumbs, pencils,
    el("div", { class: "columns" },
      el("div", { class: "left" }, stage, size.row, turn.row, light.row, followRow),
      el("div", { class: "right" }, el("div", { class: "seen" }, figure("what it sees", seen), figure("angle to each class", fan)), sentence, table, speed)),
    el("div", { class: "inside" },
      el("div", { class: "bar" }, el("span", {}, "inside, at"), depth),
      maps,
      el("div", { class: "attention" }, figure("channel attention, channels × channels", channel), figure("spatial attention, weight of each place", spatial), attention)));
  file.hidden = true;
  root.append(el("div", { class: "bar" }, start), status, live);
  root.querySelector(".why").textContent =
    "It loads about 13 MB from this book's own folder. Nothing is sent: no picture leaves your machine, and none is kept.";

  // --- the state ------------------------------------------------------------------------------------------------------
  const sessions = {}; // by the network's name: { session, about }
  const source = canvas(STAGE, STAGE); // the picture as it came, no side longer than LONG
  const state = { kind: null, name: "drawn", square: { x: 0, y: 0, side: STAGE }, frames: 0, ms: [] };
  root.state = state;
  let stream = null, video = null, chosen = null, dirty = false, busy = false;
  const rates = {}; // by network and label: { wrong, misses }, from the table on this page, which comes from the records

  // --- loading --------------------------------------------------------------------------------------------------------
  let running = null;
  const runtime = () => (running ??= startRuntime().catch((error) => { running = null; throw error; }));
  async function startRuntime() {
    await Promise.all([script("../vendor/onnxruntime/ort.wasm.min.js"), script("../vendor/onnxruntime/runtime.js")]);
    const { loader, wasm } = MIFAD_RUNTIME;
    ort.env.wasm.numThreads = 1; // more would need a server that isolates the page
    ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([loader], { type: "text/javascript" })) };
    ort.env.wasm.wasmBinary = (await unzip(wasm)).buffer;
    MIFAD_RUNTIME.wasm = null;
  }

  // The runtime has one memory for all sessions: what two of them do at the same time gets mixed up. So they queue.
  let last = Promise.resolve();
  const inTurn = (work) => (last = last.then(work, work));
  async function openModel(packed) {
    const model = await unzip(packed);
    const session = await inTurn(() => ort.InferenceSession.create(model, { executionProviders: ["wasm"] }));
    return { run: (feeds) => inTurn(() => session.run(feeds)) };
  }

  const opening = {}; // by name, so that a second click waits for the first
  async function load(name) {
    return sessions[name] ?? (opening[name] ??= openNetwork(name).finally(() => { delete opening[name]; }));
  }
  async function openNetwork(name) {
    await Promise.all([runtime(), script(`network_${name}.js`)]);
    const { model, ...about } = MIFAD_NETWORKS[name];
    const session = await openModel(model);
    MIFAD_NETWORKS[name].model = null;
    const blank = new Float32Array(SIZE * SIZE); // the first pass is slow: it compiles
    await session.run({ face: new ort.Tensor("float32", blank, [1, 1, SIZE, SIZE]) });
    return (sessions[name] = { session, about });
  }

  async function begin() {
    start.disabled = true;
    for (const row of document.querySelectorAll("#face-errors tbody tr")) {
      const [label, ...cells] = [...row.cells].map((cell) => cell.textContent.trim());
      rates[label] = { lite: cells.slice(0, 2), drawn: cells.slice(2, 4) };
    }
    tell("Loading ...");
    const began = performance.now();
    try {
      await Promise.all([load(state.name), script("examples.js")]);
    } catch (error) {
      start.disabled = false;
      throw error;
    }
    state.loading = performance.now() - began;
    tell("");
    start.parentElement.remove();
    root.classList.add("started");
    live.hidden = false;
    for (const [i, { label, pixels }] of MIFAD_EXAMPLES.entries()) {
      const face = canvas(SIZE, SIZE), option = el("button", { type: "button", "aria-pressed": "false", "aria-label": `a face drawn as ${label}` }, face);
      paint(face, bytes(pixels), SIZE, SIZE, 0, 255, gray);
      option.addEventListener("click", () => example(i));
      thumbs.append(option);
    }
    await choose("faces");
  }

  async function use(name) { // this network from now on
    try {
      if (!sessions[name]) tell("Loading ...");
      await load(name);
      tell("");
      if (state.name !== name) state.ms = [];
      state.name = name;
    } finally {
      network.value = state.name;
    }
  }

  function tell(message) {
    if (message instanceof Error) console.warn(message);
    status.textContent = message instanceof Error ? message.message : message;
  }

  // --- where the picture comes from ------------------------------------------------------------------------------------
  async function choose(kind) {
    for (const [name, b] of Object.entries(sources)) b.setAttribute("aria-pressed", name === kind);
    thumbs.hidden = kind !== "faces";
    pencils.hidden = kind !== "draw";
    followRow.hidden = kind === "faces" || kind === "draw";
    if (kind !== "camera") stop();
    state.kind = kind;
    chosen = state.found = null;
    turn.set(0);
    light.set(100);
    sentence.setAttribute("aria-live", kind === "camera" ? "off" : "polite");
    tell("");
    await use(kind === "faces" || kind === "draw" ? "drawn" : "lite"); // the one that has seen such pictures
    if (state.kind !== kind) return;
    if (kind === "faces") example(3);
    if (kind === "draw") sketch();
    if (kind === "camera") await film();
  }

  function fill(width, height, draw) { // a new picture: the square is its central one
    source.width = width;
    source.height = height;
    const context = source.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff"; // behind transparent parts
    context.fillRect(0, 0, width, height);
    draw(context);
    centre();
    refresh();
  }

  function centre() {
    const side = Math.min(source.width, source.height);
    state.square = { x: (source.width - side) / 2, y: (source.height - side) / 2, side };
    size.set(100);
  }

  function example(number) {
    const face = canvas(SIZE, SIZE);
    paint(face, bytes(MIFAD_EXAMPLES[number].pixels), SIZE, SIZE, 0, 255, gray);
    [...thumbs.children].forEach((b, i) => b.setAttribute("aria-pressed", i === number));
    state.example = number;
    fill(SIZE, SIZE, (context) => context.drawImage(face, 0, 0));
  }

  // A calm face to bend: every stroke with the pencil changes what the network sees.
  let tone = "#333", wide = 9;
  function sketch() {
    fill(STAGE, STAGE, (c) => {
      const shape = (color, ...ellipse) => { c.fillStyle = color; c.beginPath(); c.ellipse(...ellipse, 0, 0, 7); c.fill(); };
      const line = (color, width, x, y, ...curve) => {
        Object.assign(c, { strokeStyle: color, lineWidth: width, lineCap: "round" });
        c.beginPath(); c.moveTo(x, y); c.quadraticCurveTo(...curve); c.stroke();
      };
      c.fillStyle = "#777"; c.fillRect(0, 0, STAGE, STAGE);
      shape("#3a3a3a", 160, 140, 132, 140);
      shape("#c8c8c8", 160, 178, 112, 140);
      for (const x of [112, 208]) {
        shape("#f2f2f2", x, 150, 24, 13);
        shape("#222", x, 150, 11, 12);
        line("#333", 9, x - 28, 118, x, 108, x + 28, 118);
      }
      line("#8a8a8a", 6, 158, 165, 146, 205, 164, 210);
      line("#444", 9, 118, 250, 160, 254, 202, 250);
    });
  }
  for (const [name, color, width] of [["dark pencil", "#333", 9], ["light pencil", "#f2f2f2", 9], ["rub out", "#c8c8c8", 26]]) {
    const b = button(name, () => {
      [tone, wide] = [color, width];
      for (const other of pencils.children) other.setAttribute("aria-pressed", other === b);
    }, name === "dark pencil");
    pencils.append(b);
  }
  pencils.append(button("begin again", () => sketch()));

  file.addEventListener("change", () => {
    const picture = file.files[0];
    file.value = "";
    if (picture) open(picture).catch(tell);
  });
  live.addEventListener("dragover", (event) => event.preventDefault());
  live.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]).catch(tell);
  });

  async function open(picture) {
    tell(`Reading ${picture.name} ...`);
    let bitmap;
    try {
      bitmap = await createImageBitmap(picture, { imageOrientation: "from-image" });
    } catch {
      throw new Error(`${picture.name} is not a picture that this browser can read: choose a JPEG, PNG or WebP.`);
    }
    const { width, height } = bitmap;
    if (width * height > MOST) {
      bitmap.close();
      throw new Error(`${picture.name} has ${width} × ${height} pixels, more than 100 million: cut it to the face first.`);
    }
    await choose("file");
    const part = Math.min(1, LONG / Math.max(width, height));
    fill(Math.max(1, Math.round(part * width)), Math.max(1, Math.round(part * height)), (context) => {
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, source.width, source.height);
    });
    bitmap.close();
    follow.checked = true;
    await find(true);
    await refresh();
    state.picture = picture.name;
  }

  async function film() {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "user" } });
    } catch (error) {
      const why = { NotAllowedError: "you or the browser did not allow it", NotFoundError: "there is none" }[error?.name] ?? "it does not start";
      throw new Error(`No camera: ${why}. Choose another source.`);
    }
    if (state.kind !== "camera") return stop();
    video = el("video", { playsinline: "", muted: "" });
    video.muted = true;
    video.srcObject = stream;
    await video.play();
    const grab = (context) => { // as in a mirror
      context.setTransform(-1, 0, 0, 1, source.width, 0);
      context.drawImage(video, 0, 0, source.width, source.height);
      context.setTransform(1, 0, 0, 1, 0, 0);
    };
    fill(video.videoWidth, video.videoHeight, grab);
    const next = async () => {
      if (!video || state.kind !== "camera") return;
      grab(source.getContext("2d"));
      if (state.frames % 4 === 0) await find(false);
      await refresh();
      requestAnimationFrame(next);
    };
    next();
  }

  function stop() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = video = null;
  }
  addEventListener("pagehide", stop);
  document.addEventListener("visibilitychange", () => { if (document.hidden && stream) choose("faces").catch(tell); });

  // Put the square where a face is. closer: look longer, where the picture stands still.
  let finder = null;
  async function find(closer) {
    const { kind } = state;
    if (!follow.checked || (kind !== "file" && kind !== "camera")) return;
    try {
      finder ??= await openFinder();
      const square = await mifadFind(ort, finder, source, closer);
      if (state.kind !== kind || !follow.checked) return;
      state.found = square;
      if (square) {
        state.square = { x: square.x, y: square.y, side: square.side };
        size.set(Math.round((100 * square.side) / longest()));
      }
      if (!square) tell("No face found: move the square by hand. It scores whatever is in the square.");
      else tell(square.faces > 1 ? `${square.faces} faces found: the square is on one of them.` : "");
    } catch (error) {
      follow.checked = false; // the square is moved by hand
      tell(error);
    }
    await refresh();
  }
  async function openFinder() {
    await Promise.all([runtime(), script("../vendor/blazeface/finder.js"), script("find.js")]);
    return openModel(MIFAD_FINDER.model);
  }

  // --- the square ------------------------------------------------------------------------------------------------------
  const scale = () => STAGE / Math.max(source.width, source.height); // from the source's pixels to the stage's
  const offset = () => [(STAGE - scale() * source.width) / 2, (STAGE - scale() * source.height) / 2];
  const longest = () => Math.min(source.width, source.height);

  function move(x, y, side = state.square.side) {
    side = clamp(side, Math.min(8, longest()), longest());
    state.square = { side, x: clamp(x, 0, source.width - side), y: clamp(y, 0, source.height - side) };
    size.set(Math.round((100 * side) / longest()));
    refresh();
  }
  function resize(side) { // around its middle
    const { x, y, side: old } = state.square;
    side = clamp(side, Math.min(8, longest()), longest());
    move(x + (old - side) / 2, y + (old - side) / 2, side);
  }
  const byHand = () => { follow.checked = false; };
  const place = (event) => {
    const box = stage.getBoundingClientRect(), [left, top] = offset();
    return [(((event.clientX - box.x) / box.width) * STAGE - left) / scale(), (((event.clientY - box.y) / box.height) * STAGE - top) / scale()];
  };
  let grip = null; // where the pointer holds the square, or the last point of a stroke
  stage.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    const [x, y] = place(event), s = state.square, corner = Math.hypot(x - s.x - s.side, y - s.y - s.side) < 18 / scale();
    grip = state.kind === "draw" ? { stroke: [x, y] } : { corner, dx: x - s.x, dy: y - s.y };
    if (grip.stroke) stroke(x, y); else byHand();
  });
  stage.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = place(event), s = state.square;
    if (grip.stroke) stroke(x, y);
    else if (grip.corner) move(s.x, s.y, Math.min(Math.max(x - s.x, y - s.y), source.width - s.x, source.height - s.y));
    else move(x - grip.dx, y - grip.dy);
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, () => { grip = null; });
  function stroke(x, y) {
    const context = source.getContext("2d");
    Object.assign(context, { strokeStyle: tone, lineWidth: wide, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(...grip.stroke);
    context.lineTo(x, y);
    context.stroke();
    grip.stroke = [x, y];
    refresh();
  }
  stage.addEventListener("keydown", (event) => {
    const s = state.square, step = (event.shiftKey ? 0.1 : 0.02) * longest();
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    const grow = { "+": 1, "=": 1, "-": -1 }[event.key] ?? 0;
    if (!dx && !dy && !grow) return;
    event.preventDefault();
    byHand();
    if (grow) resize(s.side + 2 * grow * step); else move(s.x + dx * step, s.y + dy * step);
  });
  size.input.addEventListener("input", () => { byHand(); resize((size.input.value / 100) * longest()); });
  for (const one of [turn, light]) one.input.addEventListener("input", () => { one.set(one.input.value); refresh(); });
  follow.addEventListener("change", () => find(true));

  // --- from the square to 48 x 48 -------------------------------------------------------------------------------------
  const work = canvas(4 * SIZE, 4 * SIZE);
  function crop() {
    const c = work.getContext("2d", { willReadFrequently: true }), { x, y, side } = state.square, n = work.width;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = "#808080"; // beyond the picture's edge
    c.fillRect(0, 0, n, n);
    c.imageSmoothingEnabled = side > SIZE; // pixels of a small picture stay pixels
    c.imageSmoothingQuality = "high";
    c.translate(n / 2, n / 2);
    c.rotate((turn.input.value * Math.PI) / 180);
    c.scale(n / side, n / side);
    c.drawImage(source, -(x + side / 2), -(y + side / 2));
    const { data } = c.getImageData(0, 0, n, n), face = new Float32Array(SIZE * SIZE), bright = light.input.value / 100;
    for (let row = 0; row < n; row++)
      for (let column = 0; column < n; column++) {
        const i = 4 * (row * n + column);
        face[(row >> 2) * SIZE + (column >> 2)] += (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]) / (16 * 255);
      }
    return face.map((v) => clamp(Math.round(255 * v * bright) / 255, 0, 1)); // 256 greys, as in the training data
  }

  // --- one pass, and what it shows -----------------------------------------------------------------------------------
  let working = Promise.resolve();
  function refresh() { // one pass at a time; whatever changes meanwhile gets one more
    dirty = true;
    if (!busy) working = pass().catch(tell);
    return working;
  }
  async function pass() {
    busy = true;
    try {
      while (dirty) {
        dirty = false;
        const { session, about } = sessions[state.name], face = crop();
        const began = performance.now();
        const out = await session.run({ face: new ort.Tensor("float32", face, [1, 1, SIZE, SIZE]) });
        state.ms = [...state.ms.slice(-19), performance.now() - began];
        state.face = face;
        show(about, face, out);
        state.frames += 1;
      }
    } finally {
      busy = false;
    }
  }

  function show(about, face, out) {
    paint(seen, face, SIZE, SIZE, 0, 1, gray);
    showStage();
    const logits = out.logits.data, top = Math.max(...logits), e = Array.from(logits, (v) => Math.exp(v - top));
    const sum = e.reduce((a, b) => a + b), p = e.map((v) => v / sum), best = p.indexOf(Math.max(...p));
    const angles = Array.from(out.cosines.data, (c) => (Math.acos(clamp(c, -1, 1)) * 180) / Math.PI);
    Object.assign(state, { probabilities: p, angles, best: about.classes[best] });
    if (rows.childElementCount !== p.length)
      rows.replaceChildren(...about.classes.map((name) => el("tr", {}, el("th", { scope: "row" }, name),
        el("td", { class: "score" }, el("span", { class: "fill" }), el("output")), el("td"), el("td"), el("td"))));
    about.classes.forEach((name, i) => {
      const [, score, angle, wrong, misses] = rows.children[i].children;
      rows.children[i].classList.toggle("best", i === best);
      score.firstChild.style.width = `${100 * p[i]}%`;
      score.lastChild.textContent = percent(p[i]);
      angle.textContent = `${angles[i].toFixed(0)}°`;
      [wrong.textContent, misses.textContent] = rates[name]?.[state.name] ?? ["?", "?"];
    });
    const name = about.classes[best], [wrong] = rates[name]?.[state.name] ?? ["?"];
    const said = `Of these pixels it scores “${name}” highest. On test pictures it said “${name}” wrongly in ${wrong} of cases. A score is a guess about a picture, not about what anyone feels.`;
    if (sentence.textContent !== said) sentence.textContent = said;
    showFan(about.classes, angles, best);
    showInside(about, out);
    const middle = [...state.ms].sort((a, b) => a - b)[state.ms.length >> 1];
    speed.textContent = `One face takes ${middle.toFixed(0)} ms on this machine, one core.`;
  }

  function showStage() {
    const c = stage.getContext("2d"), s = scale(), [left, top] = offset(), { x, y, side } = state.square;
    c.clearRect(0, 0, STAGE, STAGE);
    c.imageSmoothingEnabled = s < 2;
    c.drawImage(source, left, top, s * source.width, s * source.height);
    if (state.kind === "draw") return;
    const [bx, by, b] = [left + s * x, top + s * y, s * side];
    for (const [color, width] of [["rgba(0,0,0,.75)", 5], ["#ffb000", 2]]) {
      Object.assign(c, { strokeStyle: color, lineWidth: width });
      c.strokeRect(bx + 3, by + 3, b - 6, b - 6);
    }
    c.fillStyle = "#ffb000";
    c.fillRect(bx + b - 16, by + b - 16, 13, 13); // its grip
  }

  function showFan(classes, angles, best) {
    const order = angles.map((angle, i) => [angle, i]).sort(([a], [b]) => a - b);
    const at = (angle, r) => { const t = (angle * Math.PI) / 180; return [r * Math.cos(t), -r * Math.sin(t)]; };
    const arc = svg("path", { d: "M 100 0 A 100 100 0 0 0 -100 0 Z", class: "arc" });
    const parts = [arc, svg("line", { x1: 0, y1: 0, x2: 112, y2: 0, class: "embedding" })];
    for (const [angle, i] of order.reverse()) {
      const [x, y] = at(angle, 100), first = i === best;
      parts.push(svg("line", { x1: 0, y1: 0, x2: x, y2: y, class: first ? "ray first" : "ray" }));
      if (first) {
        const [tx, ty] = at(angle, 106);
        parts.push(svg("text", { x: clamp(tx, -95, 95), y: ty, "text-anchor": angle > 75 ? (angle > 105 ? "end" : "middle") : "start" }, classes[i]));
      }
    }
    for (const [text, x] of [["0° embedding", 100], ["180°", -100]])
      parts.push(svg("text", { x, y: 15, "text-anchor": x > 0 ? "end" : "middle", class: "soft" }, text));
    fan.replaceChildren(...parts);
  }

  function showInside(about, out) {
    const d = +depth.value, key = `${state.name} ${d} ${state.kind}`;
    if (chosen?.key !== key) { // the channels that say most about this picture, kept while it changes
      chosen = { key, lists: about.kernels.map((_, k) => strongest(out[`column${k + 1}_depth${d}`])) };
      maps.replaceChildren(...about.kernels.map((kernel, k) =>
        el("div", { class: "strip" }, el("span", {}, `${kernel}×${kernel}`), ...chosen.lists[k].map((c) => {
          const [, , h, w] = out[`column${k + 1}_depth${d}`].dims;
          return canvas(w, h, `column ${kernel} by ${kernel}, depth ${d}, channel ${c}`);
        }))));
    }
    about.kernels.forEach((_, k) => {
      const { dims: [, , h, w], data } = out[`column${k + 1}_depth${d}`], n = h * w;
      const slices = chosen.lists[k].map((c) => data.subarray(c * n, (c + 1) * n));
      const high = Math.max(1e-6, ...slices.map((s) => s.reduce((a, b) => Math.max(a, b), 0)));
      slices.forEach((slice, i) => paint(maps.children[k].children[i + 1], slice, w, h, 0, high, heat));
    });
    const deep = Math.max(4, d), a = out[`channel${deep}`], s = out[`spatial${deep}`], said = [];
    if (a) {
      const n = a.dims[1];
      if (channel.width !== n) channel.width = channel.height = n;
      paint(channel, a.data, n, n, 0, a.data.reduce((x, y) => Math.max(x, y), 0), heat);
      said.push(`α = ${about.alpha[deep - 4].toFixed(3)}`);
    }
    if (s) {
      const n = s.dims[1], weight = new Float32Array(n);
      for (let i = 0; i < s.data.length; i++) weight[i % n] += s.data[i];
      paint(spatial, weight, PLACES, PLACES, weight.reduce((x, y) => Math.min(x, y)), weight.reduce((x, y) => Math.max(x, y)), heat);
      said.push(`β = ${about.beta[deep - 4].toFixed(3)}`);
    }
    attention.textContent = `Attention at depth ${deep}. What it brings is added with the weights that training left: ${said.join(", ")}.`;
  }
  function strongest({ dims: [, channels, h, w], data }) {
    const spread = Array.from({ length: channels }, (_, c) => {
      const slice = data.subarray(c * h * w, (c + 1) * h * w), mean = slice.reduce((a, b) => a + b) / slice.length;
      return [slice.reduce((a, b) => a + (b - mean) ** 2, 0), c];
    });
    return spread.sort(([a], [b]) => b - a).slice(0, SHOWN).map(([, c]) => c);
  }
  depth.value = 3;
  depth.addEventListener("change", refresh);
  network.addEventListener("change", () => use(network.value).then(refresh).catch(tell));
})();
