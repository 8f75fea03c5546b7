// Where the face is: BlazeFace (Bazarevsky et al. 2019) looks at a picture, and a square comes out that frames the face.
//
//   const square = await mifadFind(ort, session, canvas)         // { x, y, side, score, faces }, or null without a face
//   const square = await mifadFind(ort, session, canvas, true)   // where the whole shows no face, look closer, too
//
// `session` holds the model of ../vendor/blazeface/finder.js. x, y and side are in the canvas's pixels, the square lies
// inside the canvas, and where there are several faces it is the surest one's; `faces` says how many there are. The finder
// sees 128 x 128 pixels: a face that takes less than about a seventh of them it misses, and looking closer halves that.
window.mifadFind = (() => {
  const SIZE = 128, SAME = 0.3; // pixels; boxes that share more than this part are one face
  // As .ci/measure-finder.py prints it. A score of 0.6 finds 98.8 % of 500 FER2013 faces and takes 5 % of pictures of noise
  // for one; 0.5 takes 27 %. The network expects the frame that FER2013 cut: in the median its side is 1.17 times the
  // finder's box, and its middle lies 0.1 boxes above the box's.
  const LEAST = 0.6, FRAME = 1.17, RISE = 0.1;
  const anchors = []; // their middles, in parts of the picture: two in each of 16 x 16 cells, six in each of 8 x 8, by rows
  for (const [cells, each] of [[16, 2], [8, 6]])
    for (let i = 0; i < cells * cells * each; i++) {
      const cell = Math.floor(i / each);
      anchors.push([((cell % cells) + 0.5) / cells, (Math.floor(cell / cells) + 0.5) / cells]);
    }
  const view = document.createElement("canvas"), context = view.getContext("2d", { willReadFrequently: true });
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // The square (x, y, side) of the canvas as float32 (3, 128, 128) in [-1, 1], black beyond the canvas. Up to 4 x 4 pixels
  // are averaged for one, which a browser that only interpolates would skip.
  function pixels(canvas, x, y, side) {
    const fine = clamp(Math.floor(side / SIZE), 1, 4), n = fine * SIZE, out = new Float32Array(3 * SIZE * SIZE).fill(-1);
    if (view.width !== n) view.width = view.height = n;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, n, n);
    context.imageSmoothingQuality = "high";
    context.setTransform(n / side, 0, 0, n / side, (-x * n) / side, (-y * n) / side);
    context.drawImage(canvas, 0, 0);
    const { data } = context.getImageData(0, 0, n, n), part = 2 / (255 * fine * fine);
    for (let row = 0, i = 0; row < n; row++)
      for (let column = 0; column < n; column++, i += 4) {
        const at = Math.floor(row / fine) * SIZE + Math.floor(column / fine);
        for (let color = 0; color < 3; color++) out[color * SIZE * SIZE + at] += part * data[i + color];
      }
    return out;
  }

  function overlap(a, b) { // intersection over union
    const shared = (at, size) => Math.max(0, Math.min(a[at] + a[size] / 2, b[at] + b[size] / 2) - Math.max(a[at] - a[size] / 2, b[at] - b[size] / 2));
    const both = shared("x", "width") * shared("y", "height");
    return both / (a.width * a.height + b.width * b.height - both);
  }

  // The boxes that look like a face, x and y their middle, in one square (x, y, side) of the canvas.
  async function look(ort, session, canvas, x, y, side) {
    const input = new ort.Tensor("float32", pixels(canvas, x, y, side), [1, 3, SIZE, SIZE]);
    const { regressors: { data: raw }, classificators: { data: logits } } = await session.run({ input });
    const boxes = [];
    anchors.forEach(([ax, ay], i) => {
      const score = 1 / (1 + Math.exp(-clamp(logits[i], -100, 100)));
      if (score < LEAST) return;
      const [dx, dy, width, height] = Array.from(raw.subarray(16 * i, 16 * i + 4), (v) => (v * side) / SIZE);
      boxes.push({ x: x + ax * side + dx, y: y + ay * side + dy, width, height, score });
    });
    return boxes;
  }

  // One for each face, the surest first. A face answers at several anchors: their mean, weighted by score, shakes less
  // from frame to frame than the best one alone (section 3.4 of the paper).
  function blend(boxes) {
    const faces = [];
    let rest = boxes.sort((a, b) => b.score - a.score);
    while (rest.length) {
      const [best] = rest, same = rest.filter((box) => box === best || overlap(best, box) > SAME);
      const total = same.reduce((sum, box) => sum + box.score, 0);
      const mean = (key) => same.reduce((sum, box) => sum + box.score * box[key], 0) / total;
      faces.push({ x: mean("x"), y: mean("y"), width: mean("width"), score: best.score });
      rest = rest.filter((box) => !same.includes(box));
    }
    return faces;
  }

  return async (ort, session, canvas, closer = false) => {
    const { width, height } = canvas, long = Math.max(width, height), half = long / 2;
    const boxes = await look(ort, session, canvas, (width - long) / 2, (height - long) / 2, long);
    if (closer && !boxes.length) { // at squares of half the side, which overlap by half
      const starts = (length) => (length > half ? [0, 0.5, 1].map((part) => part * (length - half)) : [(length - half) / 2]);
      for (const y of starts(height))
        for (const x of starts(width)) boxes.push(...(await look(ort, session, canvas, x, y, half)));
    }
    const faces = blend(boxes), [best] = faces;
    if (!best) return null;
    const side = Math.min(FRAME * best.width, width, height);
    return {
      x: clamp(best.x - side / 2, 0, width - side),
      y: clamp(best.y - RISE * best.width - side / 2, 0, height - side),
      side, score: best.score, faces: faces.length,
    };
  };
})();
