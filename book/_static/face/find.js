// Where the face is: BlazeFace (Bazarevsky et al. 2019) looks at a picture, and a square comes out that frames the face.
//
//   const square = await mifadFind(ort, session, canvas)         // { x, y, side, score, faces }, or null without a face
//   const square = await mifadFind(ort, session, canvas, true)   // where the whole shows no face, look closer, too
//
// `session` holds the model of ../vendor/blazeface/finder.js. x, y and side are in the canvas's pixels, the square lies
// inside the canvas, and where there are several faces it is the surest one's; `faces` says how many there are. The finder
// sees 128 x 128 pixels. It finds most faces whose frame takes a quarter of the picture's longer side, and hardly one that
// takes an eighth; looking closer halves that, at ten times the work.
window.mifadFind = (() => {
  const SIZE = 128, SAME = 0.3; // pixels; boxes that share more than this part are one face
  // .ci/measure-finder.py prints what these follow from. A score of 0.7 keeps 98 % of 500 FER2013 faces and takes 0.2 % of
  // pictures of noise for one; 0.5, which is MediaPipe's, 99.8 and 27 %: enough for a first look. The network expects the
  // frame that FER2013 cut: in the median its side is 1.15 boxes of the finder, and its middle 0.11 above the box's.
  const LEAST = 0.5, SURE = 0.7, FRAME = 1.15, RISE = 0.11;
  const anchors = []; // their middles, in parts of the picture: two in each of 16 x 16 cells, six in each of 8 x 8, by rows
  for (const [cells, each] of [[16, 2], [8, 6]])
    for (let i = 0; i < cells * cells * each; i++) {
      const cell = Math.floor(i / each);
      anchors.push([((cell % cells) + 0.5) / cells, (Math.floor(cell / cells) + 0.5) / cells]);
    }
  const view = document.createElement("canvas"), context = view.getContext("2d", { willReadFrequently: true });
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // The square (x, y, side) of the canvas as float32 (3, 128, 128) in [-1, 1], black beyond the canvas. Up to 4 x 4 pixels
  // are averaged for one: how browsers make pictures smaller differs.
  function pixels(canvas, x, y, side) {
    const fine = clamp(Math.floor(side / SIZE), 1, 4), n = fine * SIZE, out = new Float32Array(3 * SIZE * SIZE).fill(-1);
    if (view.width !== n) view.width = view.height = n;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, n, n);
    context.imageSmoothingQuality = "low";
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
    const end = (box, at, size, sign) => box[at] + (sign * box[size]) / 2;
    const shared = (...axis) => Math.max(0, Math.min(end(a, ...axis, 1), end(b, ...axis, 1)) - Math.max(end(a, ...axis, -1), end(b, ...axis, -1)));
    const both = shared("x", "width") * shared("y", "height");
    return both / (a.width * a.height + b.width * b.height - both);
  }

  // The boxes that look like a face, x and y their middle, in one square (x, y, side) of the canvas.
  async function look(ort, session, canvas, x, y, side, least = LEAST) {
    const input = new ort.Tensor("float32", pixels(canvas, x, y, side), [1, 3, SIZE, SIZE]);
    const { regressors: { data: raw }, classificators: { data: logits } } = await session.run({ input });
    const boxes = [];
    anchors.forEach(([ax, ay], i) => {
      const score = 1 / (1 + Math.exp(-clamp(logits[i], -100, 100)));
      if (score < least) return;
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
      faces.push({ x: mean("x"), y: mean("y"), width: mean("width"), height: mean("height"), score: best.score });
      rest = rest.filter((box) => !same.includes(box));
    }
    return faces;
  }

  // The square that frames a box.
  const around = ({ x, y, width }) => ({ x: x - (FRAME * width) / 2, y: y - RISE * width - (FRAME * width) / 2, side: FRAME * width });

  // The faces of some squares of the canvas, looked at once more, so close that the frame takes half of what the finder
  // sees, as in the measurement: of a small face the first box is too large. What is no face from there was none.
  async function faces(ort, session, canvas, squares) {
    const boxes = [], near = [];
    for (const [x, y, side] of squares) boxes.push(...(await look(ort, session, canvas, x, y, side)));
    for (const rough of blend(boxes)) {
      const { x, y, side } = around(rough), again = await look(ort, session, canvas, x - side / 2, y - side / 2, 2 * side, SURE);
      const inside = (face) => 2 * Math.abs(face.x - rough.x) < rough.width && 2 * Math.abs(face.y - rough.y) < rough.height;
      near.push(...blend(again).filter(inside));
    }
    return blend(near);
  }

  return async (ort, session, canvas, closer = false) => {
    const { width, height } = canvas, long = Math.max(width, height), half = long / 2;
    let found = await faces(ort, session, canvas, [[(width - long) / 2, (height - long) / 2, long]]);
    if (closer && !found.length) { // squares of half the side, which overlap by half
      const starts = (length) => (length > half ? [0, 0.5, 1].map((part) => part * (length - half)) : [(length - half) / 2]);
      found = await faces(ort, session, canvas, starts(height).flatMap((y) => starts(width).map((x) => [x, y, half])));
    }
    if (!found.length) return null;
    const { x, y, side } = around(found[0]), most = Math.min(side, width, height);
    return {
      x: clamp(x + (side - most) / 2, 0, width - most),
      y: clamp(y + (side - most) / 2, 0, height - most),
      side: most, score: found[0].score, faces: found.length,
    };
  };
})();
