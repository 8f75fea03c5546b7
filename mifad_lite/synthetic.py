"""Drawn faces: the embedded data set, with the shapes, types and class order of FER2013.

A face is a row of parameters (`Face`). `render` turns rows into 48x48 pictures: bumps and grooves make a relief, one
lamp lights its slopes, and hair, brows, eyes and lips are painted on with anti-aliased edges.
Two dials shape the task: `intra` spreads the faces of one class, `inter` pulls the classes together.
Pixels need only + - * / and sqrt, which IEEE 754 rounds exactly: a seed gives the same bytes on every machine.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import numpy as np
import torch

from .data import CLASSES, SIZE, FaceData, FaceSet, content_sha256

Param = float | np.ndarray


def par(plain: float, spread: float, low: float, high: float) -> Param:
    """A field: its value in a plain face, the half range of its variation at intra = 1, and where `render` clips it."""
    return field(default=plain, metadata={"spread": spread, "low": low, "high": high})


@dataclass
class Face:
    """One face (floats) or N faces (arrays of shape (N,)). Lengths count half images (24 pixels); y points down.

    AU: action unit of the Facial Action Coding System (Ekman & Friesen, 1978).
    """

    # expression
    brow: Param = par(0.0, 0.55, -1.5, 1.5)  # brows lowered (AU4) .. raised (AU2)
    inner: Param = par(0.0, 0.55, -1.5, 1.5)  # inner ends of the brows down .. up (AU1)
    pinch: Param = par(0.0, 0.45, 0.0, 1.4)  # brows drawn together, with furrows (AU4)
    eye: Param = par(0.5, 0.32, 0.0, 1.1)  # eyes shut .. 0.5 relaxed .. wide (AU5)
    lid: Param = par(0.0, 0.45, 0.0, 1.1)  # lower lids raised (AU7)
    gaze_x: Param = par(0.0, 0.9, -1.0, 1.0)  # gaze left .. right
    gaze_y: Param = par(0.0, 0.6, -1.0, 1.0)  # gaze up .. down
    nose: Param = par(0.0, 0.36, 0.0, 1.4)  # nose wrinkled (AU9)
    cheek: Param = par(0.0, 0.45, 0.0, 1.4)  # cheeks raised, with folds (AU6)
    smile: Param = par(0.0, 0.54, -1.5, 1.5)  # corners of the mouth down (AU15) .. up (AU12)
    open: Param = par(0.0, 0.36, 0.0, 1.1)  # mouth open, jaw dropped (AU25 to 27)
    wide: Param = par(0.0, 0.45, -1.2, 1.2)  # mouth rounded (AU18) .. stretched (AU20)
    lip: Param = par(0.0, 0.4, 0.0, 1.4)  # upper lip raised (AU10)
    press: Param = par(0.0, 0.45, 0.0, 1.0)  # lips tight, thin (AU23, AU24)
    teeth: Param = par(0.0, 0.55, 0.0, 1.1)  # teeth seen in an open mouth
    skew: Param = par(0.0, 0.7, -1.0, 1.0)  # brow and mouth one-sided: left .. right
    # identity
    skin: Param = par(0.56, 0.45, 0.2, 0.9)  # tone: 0 black .. 1 white, here and below
    hair: Param = par(0.28, 0.55, 0.04, 0.85)  # tone
    iris: Param = par(0.18, 0.25, 0.06, 0.45)  # tone
    dress: Param = par(0.3, 0.6, 0.05, 0.9)  # tone of clothes, frames of spectacles and the bar
    hairline: Param = par(-0.72, 0.5, -1.2, -0.35)  # height: below -0.94 bald .. fringe
    parting: Param = par(0.0, 1.0, -1.0, 1.0)  # slope of the hairline
    long: Param = par(-0.2, 1.8, 0.0, 1.0)  # short hair .. down to the shoulders
    curl: Param = par(0.2, 0.9, 0.0, 1.0)  # smooth hair .. curly
    pattern: Param = par(0.5, 0.5, 0.0, 1.0)  # phase of locks and backdrop
    width: Param = par(0.70, 0.14, 0.4, 1.0)  # half width of the head
    height: Param = par(0.95, 0.10, 0.6, 1.2)  # half height of the head
    jaw: Param = par(0.24, 0.26, 0.0, 0.5)  # taper to the chin
    eye_x: Param = par(0.31, 0.06, 0.2, 0.45)  # from the middle to an eye
    eye_y: Param = par(-0.19, 0.08, -0.4, 0.0)  # height of the eyes
    eye_w: Param = par(0.185, 0.05, 0.1, 0.3)  # half width of an eye
    brow_w: Param = par(0.042, 0.035, 0.01, 0.1)  # half thickness of a brow
    nose_y: Param = par(0.17, 0.09, 0.0, 0.35)  # height of the tip
    nose_w: Param = par(0.15, 0.07, 0.06, 0.3)  # half width
    mouth_y: Param = par(0.47, 0.07, 0.3, 0.65)  # height
    mouth_w: Param = par(0.28, 0.08, 0.15, 0.45)  # half width
    lips: Param = par(0.062, 0.045, 0.01, 0.13)  # thickness of a lip
    age: Param = par(0.25, 0.7, 0.1, 1.0)  # depth of the folds
    beard: Param = par(-0.22, 1.0, 0.0, 0.5)  # none .. full
    glasses: Param = par(-0.35, 1.0, -1.0, 1.0)  # worn where > 0
    # pose, light and camera
    roll: Param = par(0.0, 0.3, -3.2, 3.2)  # radians
    yaw: Param = par(0.0, 0.45, -0.8, 0.8)  # about radians
    pitch: Param = par(0.0, 0.25, -0.6, 0.6)  # about radians
    shift_x: Param = par(0.0, 0.17, -2.0, 2.0)
    shift_y: Param = par(0.02, 0.14, -2.0, 2.0)
    scale: Param = par(1.10, 0.18, 0.3, 3.0)
    light_x: Param = par(-0.35, 1.4, -3.0, 3.0)  # lamp left .. right
    light_y: Param = par(-0.55, 0.6, -3.0, 3.0)  # lamp above .. below
    ambient: Param = par(0.36, 0.26, 0.0, 1.0)  # share of the light without direction
    ground: Param = par(0.5, 0.8, -0.5, 1.5)  # tone of the backdrop
    gain: Param = par(1.08, 0.26, 0.2, 2.0)  # exposure
    contrast: Param = par(1.05, 0.45, 0.2, 2.5)
    blur: Param = par(0.3, 0.8, 0.0, 1.0)  # sharp .. 3x3 binomial filter
    grain: Param = par(0.015, 0.025, 0.0, 0.2)  # half range of the noise
    cover: Param = par(-0.65, 1.5, -1.0, 1.0)  # something hides a part where > 0
    cover_kind: Param = par(0.5, 0.5, 0.0, 1.0)  # a hand below 1/3, a bar below 2/3, else a lock of hair
    cover_x: Param = par(0.0, 0.9, -1.0, 1.0)  # where it lies
    cover_y: Param = par(0.45, 0.6, -1.0, 1.5)
    seed: Param = par(0, 0, 0, 2**32 - 1)  # of the grain


# The seven expressions after FACS; all other fields keep the value of the plain face.
MOVES = ("brow", "inner", "pinch", "eye", "lid", "nose", "cheek", "smile", "open", "wide", "lip", "press", "teeth")
PROTOTYPES = {
    # fmt: off
    #           brow inner pinch  eye  lid  nose cheek  smile  open   wide  lip press teeth
    "angry":    (-.8, -.6, 1.0, 0.52, 0.7, 0.25, 0.0, -0.35, 0.00, -0.15, 0.0, 0.9, 0.0),
    "disgust":  (-.6, -.3, 0.5, 0.30, 0.8, 1.00, 0.5, -0.50, 0.15,  0.00, 1.0, 0.0, 0.8),
    "fear":     (0.7, 0.8, 0.8, 1.00, 0.1, 0.00, 0.0, -0.25, 0.70,  0.80, 0.0, 0.4, 0.5),
    "happy":    (0.1, 0.0, 0.0, 0.36, 0.6, 0.00, 1.0,  1.00, 0.35,  0.60, 0.0, 0.0, 1.0),
    "sad":      (-.1, 1.0, 0.5, 0.30, 0.1, 0.00, 0.0, -0.90, 0.00, -0.10, 0.0, 0.3, 0.0),
    "surprise": (1.0, 0.1, 0.0, 0.95, 0.0, 0.00, 0.0,  0.00, 0.90, -0.70, 0.0, 0.0, 0.0),
    "neutral":  (0.0, 0.0, 0.0, 0.50, 0.0, 0.00, 0.0,  0.00, 0.00,  0.00, 0.0, 0.0, 0.0),
    # fmt: on
}


def prototype(emotion: str, inter: float = 0.3) -> Face:
    """The expression of one of CLASSES on the plain face, as strong as `inter` leaves it (see `synthetic_faces`)."""
    if emotion not in PROTOTYPES:
        raise ValueError(f"There is no emotion {emotion!r}: choose one of {', '.join(CLASSES)}.")
    pulls = zip(MOVES, _strength(inter) * _pulls()[CLASSES.index(emotion)], strict=True)
    return Face(**{name: getattr(Face, name) + float(pull) for name, pull in pulls})


def synthetic_faces(n: int, seed=0, *, intra: float = 0.5, inter: float = 0.5, labels=None) -> FaceSet:
    """Draw n faces, the same bytes for the same arguments: images (n, 1, 48, 48) uint8, labels (n,) int64.

    seed    a whole number >= 0, or several of them
    intra   0 .. 1, variation inside a class: scales identity, pose, light, camera and occlusion, and how the expression
            varies in strength and in every part. At 0 the faces of a class differ by their grain only.
    inter   0 .. 1, similarity of the classes: every prototype lies at 1.4 (a caricature, 0) down to 0.05 (1) times its
            distance from the plain face.
    labels  the class of each face; by default all classes in equal numbers, shuffled
    Raises ValueError where an argument is none of these.
    """
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n is {n!r}, but the number of faces must be a whole number of at least 1.")
    if not 0 <= intra <= 1:
        raise ValueError(f"intra is {intra!r}, but this dial runs from 0 to 1.")
    if np.asarray(seed).dtype.kind not in "iu" or np.min(seed) < 0:
        raise ValueError(f"seed is {seed!r}, but it must be a whole number of at least 0, or several.")
    strength, rng = _strength(inter), np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % len(CLASSES)) if labels is None else np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"labels must be {n} whole numbers from 0 to {len(CLASSES) - 1}, one for each face.")
    values = {f.name: f.default + intra * f.metadata["spread"] * rng.uniform(-1, 1, n) for f in fields(Face)}
    strength = strength * (1 - intra * rng.random(n))
    for name, pull in zip(MOVES, _pulls().T, strict=True):
        values[name] = values[name] + strength * pull[labels]
    values["seed"] = rng.integers(0, 2**32, n)
    return FaceSet(torch.from_numpy(render(Face(**values))[:, None]), torch.from_numpy(labels.astype(np.int64)))


def synthetic_data(train=2000, public=500, private=500, seed=0, *, intra=0.5, inter=0.5) -> FaceData:
    """Three independent sets of `synthetic_faces` of these sizes; public and private have no twins in train."""
    sizes = enumerate((train, public, private), start=1)
    splits = [synthetic_faces(n, (seed, stream), intra=intra, inter=inter) for stream, n in sizes]
    for faces in splits[1:]:
        faces.twin = torch.zeros(len(faces), dtype=torch.bool)
    return FaceData(*splits, name="drawn faces", sha256=content_sha256(*splits))


def _strength(inter: float) -> float:
    if not 0 <= inter <= 1:
        raise ValueError(f"inter is {inter!r}, but this dial runs from 0 to 1.")
    return 1.4 - 1.35 * inter


def _pulls() -> np.ndarray:
    """(7, 13): how far each prototype lies from the plain face."""
    return np.array([PROTOTYPES[name] for name in CLASSES]) - PROTOTYPES["neutral"]


def render(faces: Face, chunk: int = 16) -> np.ndarray:
    """Draw N faces (fields broadcast to (N,)) as (N, 48, 48) uint8, on up to four threads with `chunk` faces each."""
    table = fields(Face)
    columns = [np.atleast_1d(np.asarray(getattr(faces, f.name), float)) for f in table]
    for f, column in zip(table, columns, strict=True):
        if column.ndim > 1 or not np.isfinite(column).all():
            raise ValueError(f"Face.{f.name} must be a finite number or a row of them.")
    if len(lengths := sorted({len(column) for column in columns} - {1})) > 1:
        raise ValueError(f"The fields of a Face must be numbers or arrays of one length, not of {lengths}.")
    columns = [c.clip(f.metadata["low"], f.metadata["high"]) for f, c in zip(table, columns, strict=True)]
    columns = np.broadcast_arrays(*columns)
    images = np.empty((len(columns[0]), SIZE, SIZE), np.uint8)

    def draw(start):
        part = slice(start, start + chunk)
        images[part] = _draw(*[column[part, None, None] for column in columns])

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:  # NumPy frees the interpreter inside large operations
        list(pool.map(draw, range(0, len(images), chunk)))
    return images


def _bump(q):
    """1 at q = 0, falling smoothly to 0 at q = 1."""
    return np.square(np.maximum(1 - q, 0))


def _ridge(d, w):
    """A soft line: 1 at distance d = 0, 0 from w on."""
    return _bump(np.square(d / w))


def _wave(v):
    """Triangle wave with values 0 .. 1 and period 1."""
    return 2 * np.abs(v - np.floor(v) - 0.5)


def _draw(*columns) -> np.ndarray:
    """The renderer: the fields of Face, each (N, 1, 1), as N images; `img` holds the tones, 0 black to 1 white."""
    exact, f = Face(*columns), Face(*[column.astype(np.float32) for column in columns])
    cos, sin = (turn(exact.roll).astype(np.float32) for turn in (np.cos, np.sin))  # from float64: safe from last digits
    skin, phase, bald = f.skin, f.pattern, f.hairline < -0.94
    long = f.long * ~bald

    # Coordinates: (gx, gy) image; (x, y) head; (u, v) features, moved by yaw and pitch times depth; m mirrors u.
    grid = (np.arange(SIZE, dtype=np.float32) + 0.5) / 24 - 1
    gx, gy = grid[None, None, :] - f.shift_x, grid[None, :, None] - f.shift_y
    x, y = (cos * gx + sin * gy) / f.scale, (cos * gy - sin * gx) / f.scale
    drop = 0.17 * f.open  # of the jaw
    yy = np.square(y / (f.height * (1 + drop * (y > 0))))
    xx = np.square(x / (f.width * (1 - f.jaw * yy * (y > 0))))
    r2 = xx + np.where(y > 0, yy * (0.55 + 0.45 * yy), yy)  # 1 on the outline
    depth = 0.6 * np.sqrt(np.maximum(1 - r2, 0))
    u, v = x - f.yaw * depth, y - f.pitch * depth
    m, side = np.abs(u), np.sign(u)

    def ink(d):  # coverage of a pixel, from the distance to an edge (inside < 0)
        return np.clip(0.5 - d * 24 * f.scale, 0, 1)

    def spot(cx, cy, rx, ry):  # soft ellipse, mirrored
        return _bump(np.square((m - cx) / rx) + np.square((v - cy) / ry))

    def over(below, alpha, tone):
        return below + alpha * (tone - below)

    # Lines of the eyes, the brows, the mouth and the folds.
    ex = (m - f.eye_x) / f.eye_w  # -1 .. 1 from corner to corner
    almond = np.maximum(1 - ex * ex, 0)
    upper = f.eye_y - (0.19 * f.eye + 0.005) * almond * (1 - 0.3 * np.clip(f.inner, -1, 1) * ex)
    lower = f.eye_y + (0.065 - 0.07 * f.lid) * almond
    b = (m - 0.12 + 0.05 * f.pinch) / (0.3 + f.eye_w)  # 0 .. 1 from the inner to the outer end of a brow
    brow = f.eye_y - 0.24 - 0.15 * f.brow - 0.04 * f.skew * side - 0.14 * b * (1.35 - b) + 0.09 * np.maximum(b - 0.5, 0)
    brow = brow - 0.16 * f.inner * np.square(np.maximum(1 - b, 0))
    half = f.mouth_w * (1 + 0.35 * f.wide)
    t = u / half  # -1 .. 1 from corner to corner
    tt = np.minimum(t * t, 1.5)
    square = np.clip(f.wide, 0, 1) * np.clip(-5 * f.smile, 0, 1)
    arch = over(np.maximum(1 - tt, 0), square, np.maximum(1 - tt * tt, 0))
    middle = f.mouth_y + 0.5 * drop - 0.17 * f.smile * (tt - 0.4) - 0.05 * f.skew * t - 0.02 * f.press
    top, bottom = middle - arch * (0.06 * f.open + 0.1 * f.lip), middle + arch * (0.29 * f.open - 0.02 * f.lip)
    thick = f.lips * (1 - 0.75 * f.press) * (1 - 0.3 * np.clip(f.wide, -1, 1))
    lip_top, lip_bottom = top - arch * thick * (1 - 0.3 * _bump(25 * tt)), bottom + arch * thick * 1.25
    wing, corner = f.nose_y - 0.04 - 0.05 * f.nose, f.mouth_y + 0.5 * drop - 0.1 * f.smile
    w = (v - wing) / np.maximum(corner - wing, 0.05)
    fold = _ridge(m - f.nose_w - (half + 0.05 - f.nose_w) * w * (1.6 - 0.6 * w), 0.07)
    fold = fold * np.clip(4 * w * (1.25 - w), 0, 1)
    fold = fold * np.clip(0.25 * f.age + 0.6 * f.cheek + 0.6 * f.nose + 0.3 * f.lip, 0, 1.2)
    furrow = f.pinch * _ridge(m - 0.055, 0.045) * _ridge(v - f.eye_y + 0.2, 0.16)
    crease = f.nose * _ridge(m, 0.17) * _ridge(v - f.eye_y - 0.06, 0.2) * _wave(11 * v - 5.5 * m)
    lines = np.clip(f.brow + 0.5 * f.inner, 0, 1.2) * f.age * _wave(8 * v)
    lines = lines * _ridge(m, 0.45) * _ridge(v - f.eye_y + 0.52, 0.2)
    puff = f.eye_y + 0.12 - 0.03 * f.cheek
    bag = np.maximum(spot(f.eye_x, puff + 0.03, 0.24, 0.07) - spot(f.eye_x, puff, 0.22, 0.05), 0)
    bag = bag * (0.5 * f.age + 0.7 * f.cheek + 0.4 * f.lid)

    # Relief: height h, then Lambert's law with one lamp, and a shine.
    h = 0.62 * np.sqrt(np.maximum(1 - r2 * r2, 0))
    h += 0.16 * spot(0, f.nose_y - 0.22, f.nose_w, 0.42) + 0.12 * spot(0, f.nose_y - 0.03, f.nose_w, 0.14)  # nose
    h += 0.07 * spot(0.75 * f.nose_w, f.nose_y, 0.5 * f.nose_w + 0.02, 0.09)
    h += 0.05 * spot(0.28, f.eye_y - 0.22 - 0.1 * f.brow, 0.34, 0.13) - 0.12 * spot(f.eye_x - 0.03, f.eye_y, 0.3, 0.2)
    h += (0.05 + 0.09 * f.cheek) * spot(f.eye_x + 0.12, f.nose_y - 0.02 - 0.08 * f.cheek, 0.3, 0.24)
    h += 0.06 * spot(0, f.mouth_y, 0.42, 0.24) + 0.06 * spot(0, f.height * (0.86 + drop), 0.26, 0.17)  # chin
    h += arch * 0.035 * _ridge(v - (top + lip_top) / 2, thick + 0.02)
    h += arch * 0.025 * _ridge(v - (bottom + lip_bottom) / 2, thick + 0.03)
    h -= 0.05 * fold + 0.03 * furrow + 0.02 * crease + 0.015 * lines + 0.02 * bag
    hx, hy = (np.gradient(h, axis=axis) * 24 * f.scale for axis in (2, 1))
    lamp = np.sqrt((np.square(f.light_x) + np.square(f.light_y) + 1) * (1 + hx * hx + hy * hy))
    lit = np.maximum(1 - hx * f.light_x - hy * f.light_y, 0) / lamp
    lit = f.ambient + (1.1 - f.ambient) * lit + 0.12 * np.square(np.square(np.square(lit)))

    # Behind the face: backdrop, hair, neck, clothes, ears.
    img = f.ground + 0.25 * (f.light_x * x - 0.5 * y) + 0.25 * (_wave(0.6 * gx + 0.2 * gy + 5 * phase) - 0.5)
    frizz = f.curl * (_wave(3.1 * x + 3 * phase) * _wave(3.7 * y + 5 * phase) - 0.25)
    strand = _wave((5 + 2 * y) * x + 2 * f.parting * y + frizz) * _wave(13 * x + 3 * y + phase)
    strand = over(strand, f.curl, _wave(4.3 * x + 3 * y + 2 * frizz) * _wave(5.1 * y - 2 * x + phase))
    size = np.where(bald, 1.02, 1.05 + 0.08 * long + 0.12 * f.curl).astype(np.float32)
    cx, cy = x / (f.width * size), (y + 0.06) / (f.height * (size - 0.02))
    crown = np.sqrt(cx * cx + cy * cy) + 0.12 * frizz * ~bald
    gloss = _bump(np.square(cx / 0.8 - 0.5 * f.light_x) + np.square(cy / 0.6 + 1))
    mane = f.hair * (0.7 + 0.6 * strand) * (0.6 + 0.7 * gloss)
    fall = np.abs(x) - f.width * (1.1 + 0.2 * np.maximum(y, 0) * long + 0.15 * f.curl + 0.2 * frizz)
    img = over(img, ink(np.maximum(fall, -y)) * ink(y - 0.1 - 1.2 * long) * (long > 0.05), 0.7 * mane)
    img = over(img, ink((crown - 1) * f.width) * ink(np.maximum(y - 0.05, np.where(bald, -0.45 - y, -1))), 0.7 * mane)
    img = over(img, ink(np.abs(x) - 0.6 * f.width) * ink(0.5 - y), skin * (0.45 + 0.3 * f.light_x * x))
    img = over(img, ink(1.08 - y - 0.3 * np.maximum(1 - np.abs(x), 0)), f.dress)
    ear = np.square((np.abs(x) - 0.99 * f.width) / 0.1) + np.square(y / 0.18)
    ear_tone = (0.75 + 0.25 * np.minimum(ear, 1) + 0.3 * f.light_x * x) * (0.4 + 0.6 * f.ambient)
    img = over(img, ink(0.1 * np.sqrt(ear) - 0.1) * (long < 0.4), skin * ear_tone)

    # Skin with its shadows, beard, lips and brows, in the light.
    tone = skin * (1 - 0.1 * spot(f.eye_x + 0.15, 0.2, 0.25, 0.2)) * (1 - 0.28 * spot(f.eye_x, f.eye_y, 0.26, 0.16))
    tone = tone * (1 - 0.2 * spot(0, f.nose_y + 0.1, 1.3 * f.nose_w, 0.1))
    tone = tone * (1 - 0.22 * spot(0, lip_bottom + 0.06, 0.2, 0.08))
    tone = tone * (1 - 0.45 * np.clip(fold + furrow + 0.6 * crease + 0.5 * lines + bag, 0, 1))
    whiskers = np.clip(7 * (v - 0.6 + 0.75 * np.square(m / f.width)), 0, 1) * np.clip(8 * (v - f.nose_y), 0, 1)
    whiskers = np.maximum(whiskers, _ridge(v - lip_top + 0.05, 0.1) * np.clip(12 * (half + 0.06 - m), 0, 1))
    tone = over(tone, 2 * f.beard * (long < 0.3) * whiskers, f.hair * (0.8 + 0.2 * strand))
    tone = over(tone, ink(lip_top - v) * ink(v - lip_bottom) * ink(m - half), 0.62 * skin)
    tuft = ink(np.abs(v - brow) - f.brow_w * np.clip(np.minimum(5 * b + 0.5, 1.6 - 1.2 * b), 0, 1))
    tone = over(tone, 0.9 * tuft * ink(0.4 * np.abs(b - 0.5) - 0.2), 0.8 * np.minimum(f.hair, 0.75 * skin))
    inside = ink((np.sqrt(r2) - 1) * f.width)
    img = over(img, inside, tone * lit)

    # Mouth, nostrils and eyes, which lie deep and take less of the light.
    lit = 0.3 + 0.5 * f.ambient + 0.3 * lit
    img = over(img, ink(np.maximum(top - v, v - bottom) - 0.02) * ink(m - half), 0.12 * skin)
    hole = ink(np.maximum(top - v, v - bottom)) * ink(m - half)
    img = over(img, 0.6 * hole * spot(0, bottom, 0.2, 0.13), 0.5 * skin)  # tongue
    ivory = np.minimum(1.5 * lit, 0.97) * (1 - 0.25 * tt)
    bite = np.minimum(0.12, 0.7 * f.teeth * (bottom - top))
    img = over(img, hole * ink(v - top - bite) * np.minimum(3 * f.teeth, 1), ivory)
    img = over(img, hole * ink(bottom - v - 0.04 * f.teeth) * np.minimum(f.teeth, 1) * square, ivory)
    nostril = np.square((m - 0.45 * f.nose_w) / 0.055) + np.square((v - f.nose_y - 0.05) / 0.032)
    img = over(img, 0.75 * ink(0.032 * np.sqrt(nostril) - 0.032), 0.2 * skin)
    ix, iy = m - f.eye_x - 0.07 * side * f.gaze_x, v - f.eye_y + 0.03 - 0.05 * f.gaze_y
    r = np.sqrt(ix * ix + iy * iy)
    ball = over(over((0.92 - 0.25 * ex * ex) * lit, ink(r - 0.088), f.iris), ink(r - 0.042), 0.03)
    glint = np.square(ix - 0.06 * side * np.clip(f.light_x, -0.5, 0.5)) + np.square(iy + 0.035)
    ball = over(ball, ink(np.sqrt(glint) - 0.02), 0.95)
    img = over(img, ink(np.maximum(upper - v, v - lower)) * ink((np.abs(ex) - 1) * f.eye_w), ball)
    along = ink((np.abs(ex) - 1.05) * f.eye_w)
    img = over(img, ink(np.abs(v - upper + 0.01) - 0.018) * along, 0.18 * skin)  # lashes
    img = over(img, 0.5 * ink(np.abs(v - lower) - 0.008) * along, 0.4 * skin)
    img = over(img, 0.4 * ink(np.abs(v - upper + 0.075) - 0.01) * along * np.minimum(2 * f.eye, 1), 0.4 * skin)

    # In front: hair, spectacles, and a hand, a bar or a lock of hair.
    temple = np.square(x / f.width)
    line = f.hairline + 0.35 * f.parting * x + 0.75 * temple * temple * (temple + 0.5 * long)
    line = np.where(bald, 2.6 * temple - 2.45, line - 0.07 * _wave(2.3 * x + 7 * phase) * _wave(5.9 * x + 3 * phase))
    img = over(img, ink((crown - 1) * f.width) * ink(np.maximum(y - line, y - 0.05 - 1.5 * long)), mane)
    lens = np.square(np.square((m - f.eye_x) / 0.25)) + np.square(np.square((v - f.eye_y - 0.03) / 0.19))
    bridge = np.maximum(np.abs(v - f.eye_y + 0.02) - 0.016, np.where(m < 0.3, m - 0.07, 0.55 - m))
    frame = ink(np.minimum(0.2 * np.abs(np.sqrt(np.sqrt(lens)) - 1) - 0.016, bridge))
    img = over(img, 0.9 * frame * (f.glasses > 0) * inside, 0.5 * f.dress)
    ux, uy = x - 0.5 * f.cover_x + 0.35 * f.cover_x * (y - f.cover_y), y - f.cover_y + 0.35 * f.cover_x * x
    finger = np.floor(ux / 0.19)
    gap = ux - 0.19 * (finger + 0.5)
    hand = np.sqrt(gap * gap + np.square(np.minimum(uy - 0.06 * np.square(finger + 0.3), 0))) - 0.092
    hand = np.maximum(np.minimum(hand, 0.5 - uy), np.abs(ux) - 0.38)
    hand_tone = 1.1 - 70 * gap * gap * np.clip(4 - 7 * uy, 0, 1) - 0.5 * np.square(ux - 0.3 * f.light_x)
    lock = np.abs(x + 0.3 * np.sign(f.cover_x) * (1 - 0.6 * np.square(y + 0.8))) - 0.14 * np.minimum(1, 0.7 - y)
    kind = np.where(f.cover > 0, np.floor(2.999 * f.cover_kind), -1)
    img = over(img, ink(hand) * (kind == 0), skin * (0.5 + 0.6 * f.ambient) * hand_tone)
    img = over(img, ink(np.abs(uy) - 0.12) * (kind == 1), f.dress)
    img = over(img, ink(np.maximum(lock, crown - 1.3)) * (kind == 2), mane)

    # Camera: exposure, contrast, blur, and grain from a hash of seed and pixel.
    img = 0.5 + f.contrast * (img * f.gain - 0.5)
    pad = np.pad(img, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = pad[:, :-2] + 2 * pad[:, 1:-1] + pad[:, 2:]
    img = over(img, f.blur, (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16)
    key = np.arange(SIZE * SIZE, dtype=np.uint32).reshape(SIZE, SIZE)
    key = key ^ exact.seed.astype(np.uint32) * np.uint32(2654435761)
    for _ in range(2):
        key = (key ^ key >> np.uint32(16)) * np.uint32(0x45D9F3B)
    img = img + f.grain * ((key >> np.uint32(16)).astype(np.float32) / 32768 - 1)
    return (np.clip(img, 0, 1) * 255 + 0.5).astype(np.uint8)
