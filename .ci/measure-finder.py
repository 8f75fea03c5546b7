"""Measure how the face finder's box lies in FER2013's frame, and how often it finds a face: measure-finder.py.

LEAST, SURE, FRAME and RISE of book/_static/face/find.js follow from what this prints. Needs onnxruntime and FER2013.
`look` is what find.js does, written a second time: the tests hold the two against each other.
"""

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from mifad_lite import load_fer2013

PACKED = Path(__file__).parents[1] / "book/_static/vendor/blazeface/finder.js"
SIZE = 128
FACES = 500
# The middles of the 896 anchors, in parts of the picture: two in each of 16 x 16 cells, six in each of 8 x 8, by rows.
ANCHORS = np.concatenate(
    [
        np.repeat([((column + 0.5) / n, (row + 0.5) / n) for row in range(n) for column in range(n)], each, axis=0)
        for n, each in ((16, 2), (8, 6))
    ]
)


def open_finder():
    """An onnxruntime session, one thread: `input` (1, 3, 128, 128) in [-1, 1] -> regressors, classificators."""
    packed = json.loads(PACKED.read_text("utf8").removeprefix("window.MIFAD_FINDER = ").rstrip(";\n"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = gzip.decompress(base64.b64decode(packed["model"]))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def view(picture, x, y, side):
    """The square (x, y, side) of a PIL picture as (1, 3, 128, 128) float32 in [-1, 1], black beyond the picture."""
    fine = min(max(int(side / SIZE), 1), 4)
    extent = (x, y, x + side, y + side)
    large = picture.convert("RGB").transform(
        (fine * SIZE,) * 2, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR
    )
    values = np.asarray(large, np.float32).reshape(SIZE, fine, SIZE, fine, 3).mean((1, 3)) / 127.5 - 1
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def overlap(box, others):
    """Intersection over union of a box (x, y, width, height; x and y its middle) with each of `others` (N, 4)."""
    low = np.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    shared = np.maximum(high - low, 0).prod(1)
    return shared / (box[2:].prod() + others[:, 2:].prod(1) - shared)


def look(session, picture, square=None, least=0.5):
    """The faces in a square (x, y, side) of a PIL picture, of which the default is the smallest that holds all of it.

    A list of arrays (x, y, width, height, score) in pixels, x and y the middle, the surest first. A face answers at
    several anchors: BlazeFace (Bazarevsky et al. 2019, section 3.4) takes their mean, weighted by score.
    """
    long = max(picture.size)
    x, y, side = square or ((picture.width - long) / 2, (picture.height - long) / 2, long)
    raw, logits = session.run(["regressors", "classificators"], {"input": view(picture, x, y, side)})
    raw, scores = raw[0].astype(np.float64), 1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -100, 100)))
    boxes = side * np.concatenate([ANCHORS + raw[:, :2] / SIZE, raw[:, 2:4] / SIZE], axis=1) + (x, y, 0, 0)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= least]
    found = []
    while len(order):
        same = overlap(boxes[order[0]], boxes[order]) > 0.3
        box = np.average(boxes[order[same]], axis=0, weights=scores[order[same]])
        found.append(np.array([*box, scores[order[0]]]))
        order = order[~same]
    return found


def frames(session, faces, times=2):
    """FER2013 faces (N, 48, 48) uint8, each in a grey picture `times` as wide -> (N, 4): x, y, side of the box, score.

    In units of the frame that FER2013 cut, from its upper left corner; NaN where nothing was found.
    """
    rows, edge = [], 24 * (times - 1)
    for face in faces:
        picture = Image.new("L", (48 * times, 48 * times), 128)
        picture.paste(Image.fromarray(face), (edge, edge))
        x, y, width, _, score = (look(session, picture) or [np.full(5, np.nan)])[0]
        rows.append(((x - edge) / 48, (y - edge) / 48, width / 48, score))
    return np.array(rows)


def noise(number, seed=0):
    """`number` pictures of random colours, in grains of 1, 4, 8 and 16 pixels."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        cells = SIZE // (1, 4, 8, 16)[i % 4]
        picture = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        yield picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def main():
    session = open_finder()
    images = load_fer2013().train.images[:, 0].numpy()
    faces = images[np.random.default_rng(0).choice(len(images), FACES, replace=False)]
    rows = frames(session, faces)
    empty = np.array([max((face[4] for face in look(session, picture)), default=0) for picture in noise(FACES)])
    print("score   faces found   noise taken for a face")
    for least in (0.5, 0.6, 0.7, 0.8):
        print(f"{least:5} {np.mean(np.nan_to_num(rows[:, 3]) >= least):13.1%} {np.mean(empty >= least):24.1%}")
    x, y, side, _ = rows[~np.isnan(rows[:, 3])].T
    print("\nframe, part of the picture   faces found")
    for times in (1, 2, 4, 5, 6, 8):
        part = rows if times == 2 else frames(session, faces[:100], times)
        print(f"{'1 / ' + str(times):>27} {np.mean(~np.isnan(part[:, 3])):13.0%}")
    x, y, side, _ = rows[~np.isnan(rows[:, 3])].T
    print("\nWhere a face is found, in units of its box (median, and the middle half):")
    for name, values in (
        ("side of the frame", 1 / side),
        ("frame's middle to the right of the box's", (0.5 - x) / side),
        ("frame's middle below the box's", (0.5 - y) / side),
    ):
        low, middle, high = np.percentile(values, (25, 50, 75))
        print(f"{name:42} {middle:7.3f}   {low:7.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
