"""The face finder: the converted model against the original's answers, and find.js against Python's onnxruntime."""

import base64
import importlib.util
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from mifad_lite import data

PAGE = """<!doctype html><meta charset="utf-8">
<script src="{static}/vendor/onnxruntime/ort.wasm.min.js"></script>
<script src="{static}/vendor/onnxruntime/runtime.js"></script>
<script src="{static}/vendor/blazeface/finder.js"></script>
<script src="{static}/face/find.js"></script>
<script>
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const unzip = async (text) => new Uint8Array(
  await new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
async function open_() {{
  ort.env.wasm.numThreads = 1;
  const loader = new Blob([MIFAD_RUNTIME.loader], {{ type: "text/javascript" }});
  ort.env.wasm.wasmPaths = {{ mjs: URL.createObjectURL(loader) }};
  ort.env.wasm.wasmBinary = (await unzip(MIFAD_RUNTIME.wasm)).buffer;
  const model = await unzip(MIFAD_FINDER.model);
  window.session = await ort.InferenceSession.create(model, {{ executionProviders: ["wasm"] }});
}}
async function find(png, closer) {{
  const bitmap = await createImageBitmap(new Blob([bytes(png)], {{ type: "image/png" }}));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return mifadFind(ort, session, canvas, closer);
}}
</script>"""
# In the photograph, by eye: the two eyes, the mouth, and where the hair and the neck begin.
EYES, MOUTH, HAIR, CHIN = ((52, 37), (70, 38)), (60, 53), 28, 67


@pytest.fixture(scope="module")
def measure(root):
    spec = importlib.util.spec_from_file_location("measure_finder", root / ".ci/measure-finder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def session(measure):
    return measure.open_finder()


@pytest.fixture(scope="module")
def photograph(root):
    return Image.open(root / "tests/finder/astronaut.png").convert("RGB")


@pytest.fixture(scope="module")
def find(root, browser, tmp_path_factory):
    """find.js in a page that is opened from disk: (picture, closer) -> its answer."""
    page = tmp_path_factory.mktemp("finder") / "page.html"
    page.write_text(PAGE.format(static=(root / "book/_static").as_uri()), "utf8")
    browser.get(page.as_uri())

    def call(script, *arguments):
        told = browser.execute_async_script(
            f"const done = arguments[arguments.length - 1]; {script}.then((v) => done([v]), (e) => done(String(e)));",
            *arguments,
        )
        assert isinstance(told, list), told
        return told[0]

    call("open_()")

    def answer(picture, closer=False):
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        return call("find(arguments[0], arguments[1])", base64.b64encode(buffer.getvalue()).decode(), closer)

    return answer


def on(color, size, *placed):
    """A picture of one color with others in it: (picture, (x, y), side)."""
    out = Image.new("RGB", size, color)
    for picture, place, side in placed:
        out.paste(picture.resize((side, side), Image.Resampling.LANCZOS), place)
    return out


@pytest.fixture(scope="module")
def constants(root):
    """LEAST, SURE, FRAME and RISE of find.js."""
    text = (root / "book/_static/face/find.js").read_text("utf8")
    return {name: float(value) for name, value in re.findall(r"([A-Z]{4,5}) = ([\d.]+)[,;]", text) if name != "SIZE"}


@pytest.fixture(scope="module")
def frame(measure, session, constants):
    """Python's find.js: picture -> (x, y, side, score, number of faces), or None."""

    def around(box):
        side = constants["FRAME"] * box[2]
        return box[0] - side / 2, box[1] - constants["RISE"] * box[2] - side / 2, side

    def answer(picture):
        near = []
        for rough in measure.look(session, picture, least=constants["LEAST"]):
            x, y, side = around(rough)
            again = measure.look(session, picture, (x - side / 2, y - side / 2, 2 * side), constants["SURE"])
            near += [face for face in again if (2 * np.abs(face[:2] - rough[:2]) < rough[2:4]).all()]
        if not near:
            return None
        face = max(near, key=lambda face: face[4])
        x, y, side = around(face)
        most = min(side, *picture.size)
        corner = (
            min(max(at + (side - most) / 2, 0), long - most) for at, long in zip((x, y), picture.size, strict=True)
        )
        return (*corner, most, face[4], len(near))

    return answer


# --- the model ---


def test_the_converted_model_answers_as_the_original(root, session, photograph):
    reference = np.load(root / "tests/finder/reference.npz")
    inputs = {
        "photograph": np.asarray(photograph, np.float32) / 127.5 - 1,
        "noise": np.random.default_rng(0).uniform(-1, 1, (128, 128, 3)).astype(np.float32),
    }
    for name, values in inputs.items():
        for output in ("regressors", "classificators"):
            (answer,) = session.run([output], {"input": values.transpose(2, 0, 1)[None]})
            expected = reference[f"{name}_{output}"]
            assert np.ptp(expected) > 10  # pixels and logits
            assert np.abs(answer[0, ::7] - expected).max() < 1e-3


def test_the_face_in_a_photograph_is_found_where_it_is(frame, photograph):
    x, y, side, score, faces = frame(photograph)
    assert faces == 1
    assert score > 0.9
    for part_x, part_y in (*EYES, MOUTH):
        assert 0.1 * side < part_x - x < 0.9 * side
        assert 0.1 * side < part_y - y < 0.9 * side
    assert abs(HAIR - y) < 0.25 * side
    assert abs(y + side - CHIN) < 0.25 * side


@pytest.mark.parametrize(("place", "side"), [((0, 0), 200), ((230, 60), 260), ((100, 90), 220)])
def test_a_picture_that_moves_or_grows_takes_its_square_along(frame, photograph, place, side):
    x, y, width, *_ = frame(photograph)
    moved = frame(on("gray", (480, 320), (photograph, place, side)))
    part = side / 128
    expected = place[0] + part * x, place[1] + part * y, part * width
    assert moved[:3] == pytest.approx(expected, abs=0.05 * part * width)


def test_a_mirrored_face_is_found_on_the_other_side(frame, photograph):
    x, y, side, *_ = frame(photograph)
    expected = 128 - x - side, y, side
    assert frame(ImageOps.mirror(photograph))[:3] == pytest.approx(expected, abs=0.05 * side)


def test_nothing_is_found_where_there_is_no_face(frame):
    rng = np.random.default_rng(0)
    for color in ("black", "white", "gray", "red", "#c8a080"):
        assert frame(Image.new("RGB", (300, 200), color)) is None
    for size in (64, 512):
        for _ in range(5):
            assert frame(Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))) is None


def test_the_square_is_the_frame_that_fer2013_cut(measure, session, constants):
    """In the median, over the first faces of the file; the finder's boxes vary by a fifth from face to face."""
    try:
        path = data.locate()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if path.is_dir():
        pytest.skip(f"{path} is a folder, and this reads the first rows of a file")
    rows = pd.read_csv(path, nrows=150).rename(columns=str.strip)["pixels"]
    faces = np.array([row.split() for row in rows], np.uint8).reshape(-1, 48, 48)
    x, y, box, _ = np.nanmedian(measure.frames(session, faces), axis=0)
    assert x == pytest.approx(0.5, abs=0.02)
    assert y - constants["RISE"] * box == pytest.approx(0.5, abs=0.02)
    assert constants["FRAME"] * box == pytest.approx(1, abs=0.05)


# --- the page's script ---


def test_the_page_frames_a_face_as_python_does(find, frame, photograph):
    pictures = [
        photograph,
        on("white", (640, 480), (photograph, (240, 100), 360)),
        on("black", (300, 700), (photograph, (-40, 420), 300)),
        on("gray", (1024, 1024), (photograph, (0, 0), 1024)),
        photograph.crop((40, 20, 80, 76)).resize((80, 112)),  # hardly more than the face: the square reaches the edges
        photograph.convert("L").convert("RGB").resize((48, 48)),
    ]
    for picture in pictures:
        *square, score, faces = frame(picture)
        told = find(picture)
        assert told["faces"] == faces == 1
        assert [told["x"], told["y"], told["side"]] == pytest.approx(square, abs=1)
        assert told["score"] == pytest.approx(score, abs=0.03)
        assert min(told["x"], told["y"]) >= 0
        assert told["x"] + told["side"] <= picture.width + 1e-9
        assert told["y"] + told["side"] <= picture.height + 1e-9


def test_the_page_finds_nothing_where_there_is_nothing(find):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    for picture in (noise, Image.new("RGB", (640, 480), "gray"), Image.new("RGB", (1, 1))):
        assert find(picture) is None


def test_the_page_counts_faces_and_takes_the_surest(find, frame, photograph):
    two = on("gray", (600, 300), (photograph, (0, 0), 300), (photograph.convert("L"), (300, 0), 300))
    *square, _, faces = frame(two)
    told = find(two)
    assert told["faces"] == faces == 2
    assert [told["x"], told["y"], told["side"]] == pytest.approx(square, abs=1)


def test_looking_closer_finds_a_small_face(find, photograph):
    """By its place in the picture, and once, though several of the squares show it."""
    for left, top, side in ((420, 270, 260), (0, 400, 300), (740, 10, 240)):
        far = on("gray", (1000, 700), (photograph, (left, top), side))
        assert find(far) is None
        told = find(far, True)
        assert told["faces"] == 1
        part = side / 128
        for x, y in (*EYES, MOUTH):
            assert told["x"] < left + part * x < told["x"] + told["side"]
            assert told["y"] < top + part * y < told["y"] + told["side"]
        assert told["side"] < 1.5 * part * (CHIN - HAIR)
