"""The face finder: the converted model against the original's answers, and find.js against Python's onnxruntime."""

import base64
import importlib.util
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

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
  ort.env.wasm.wasmPaths = {{ mjs: URL.createObjectURL(new Blob([MIFAD_RUNTIME.loader], {{ type: "text/javascript" }})) }};
  ort.env.wasm.wasmBinary = (await unzip(MIFAD_RUNTIME.wasm)).buffer;
  window.session = await ort.InferenceSession.create(await unzip(MIFAD_FINDER.model), {{ executionProviders: ["wasm"] }});
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
FRAME, RISE, LEAST = 1.17, 0.1, 0.6  # of find.js


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


def square(box, size):
    """The square that find.js should make of a box (x, y, width, ...) that Python found in a picture of this size."""
    x, y, width = box[:3]
    side = min(FRAME * width, *size)
    left, top = x - side / 2, y - RISE * width - side / 2
    return min(max(left, 0), size[0] - side), min(max(top, 0), size[1] - side), side


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
            assert np.abs(expected).max() > 20  # pixels or logits, of which the difference is a thousandth at most
            assert np.abs(answer[0, ::7] - expected).max() < 1e-3


def test_the_face_in_a_photograph_is_found_where_it_is(measure, session, photograph):
    ((x, y, width, height, score),) = measure.look(session, photograph)
    assert score > 0.9
    for part_x, part_y in (*EYES, MOUTH):
        assert abs(part_x - x) < width / 2
        assert abs(part_y - y) < height / 2
    left, top, side = square((x, y, width), photograph.size)
    assert 0 < HAIR - top < 0.25 * side
    assert 0 < top + side - CHIN < 0.25 * side


@pytest.mark.parametrize(("place", "side"), [((0, 0), 200), ((230, 60), 240), ((100, 90), 160)])
def test_a_picture_that_moves_or_grows_takes_its_box_along(measure, session, photograph, place, side):
    (x, y, width, *_), *_ = measure.look(session, photograph)
    ((moved_x, moved_y, moved_width, *_),) = measure.look(session, on("gray", (480, 320), (photograph, place, side)))
    part = side / 128
    expected = np.array([place[0] + part * x, place[1] + part * y, part * width])
    assert np.abs(np.array([moved_x, moved_y, moved_width]) - expected).max() < 0.1 * part * width


def test_a_mirrored_face_is_found_on_the_other_side(measure, session, photograph):
    (x, y, width, *_), *_ = measure.look(session, photograph)
    (other_x, other_y, other_width, *_), *_ = measure.look(session, ImageOps.mirror(photograph))
    assert other_x == pytest.approx(128 - x, abs=1)
    assert (other_y, other_width) == pytest.approx((y, width), abs=2)


def test_nothing_is_found_where_there_is_no_face(measure, session):
    rng = np.random.default_rng(0)
    for color in ("black", "white", "gray", "red", "#c8a080"):
        assert measure.look(session, Image.new("RGB", (300, 200), color)) == []
    for size in (64, 512):
        for _ in range(5):
            picture = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
            assert measure.look(session, picture, LEAST) == []


# --- the page's script ---


def test_the_page_frames_a_face_as_python_does(find, measure, session, photograph):
    pictures = [
        photograph,
        on("white", (640, 480), (photograph, (240, 100), 360)),
        on("black", (300, 700), (photograph, (-40, 420), 300)),
        on("gray", (1024, 1024), (photograph, (0, 0), 1024)),
        photograph.crop((40, 20, 80, 76)).resize((80, 112)),  # hardly more than the face: the square reaches the edges
        photograph.convert("L").convert("RGB").resize((48, 48)),
    ]
    for picture in pictures:
        found = [box for box in measure.look(session, picture, LEAST)]
        told = find(picture)
        assert told["faces"] == len(found) == 1
        pixel = max(1, max(picture.size) / 128)  # of the finder's
        assert (told["x"], told["y"], told["side"]) == pytest.approx(square(found[0], picture.size), abs=pixel)
        assert told["score"] == pytest.approx(found[0][4], abs=0.02)
        assert told["x"] >= 0
        assert told["y"] >= 0
        assert told["x"] + told["side"] <= picture.width + 1e-9
        assert told["y"] + told["side"] <= picture.height + 1e-9


def test_the_page_finds_nothing_where_there_is_nothing(find):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    for picture in (noise, Image.new("RGB", (640, 480), "gray"), Image.new("RGB", (1, 1))):
        assert find(picture) is None


def test_the_page_counts_faces_and_takes_the_surest(find, measure, session, photograph):
    two = on("gray", (600, 300), (photograph, (0, 0), 300), (photograph.convert("L"), (300, 0), 300))
    found = measure.look(session, two, LEAST)
    told = find(two)
    assert told["faces"] == len(found) == 2
    assert (told["x"], told["y"], told["side"]) == pytest.approx(square(found[0], two.size), abs=600 / 128)


def test_looking_closer_finds_a_small_face(find, photograph):
    """By its place in the picture, and once, though several of the squares show it."""
    far = on("gray", (1000, 700), (photograph, (420, 270), 250))
    assert find(far) is None
    told = find(far, True)
    assert told["faces"] == 1
    part = 250 / 128
    for x, y in (*EYES, MOUTH):
        assert told["x"] < 420 + part * x < told["x"] + told["side"]
        assert told["y"] < 270 + part * y < told["y"] + told["side"]
    assert told["side"] < 2.5 * part * (CHIN - HAIR)
