"""Record what TFLite's own interpreter makes of two pictures: reference-finder.py TFLITE OUT.npz.

tests/test_finder.py holds the converted model against it. Needs the packages ai-edge-litert, numpy and pillow.
"""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

if len(sys.argv) != 3:
    sys.exit(__doc__.splitlines()[0])
source, out = sys.argv[1:]
photograph = Path(__file__).parents[1] / "tests/finder/astronaut.png"
pictures = {
    "photograph": np.asarray(Image.open(photograph), np.float32) / 127.5 - 1,
    "noise": np.random.default_rng(0).uniform(-1, 1, (128, 128, 3)).astype(np.float32),
}
interpreter = Interpreter(source)
interpreter.allocate_tensors()
record = {}
for name, picture in pictures.items():
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None])
    interpreter.invoke()
    for detail in interpreter.get_output_details():
        record[f"{name}_{detail['name']}"] = interpreter.get_tensor(detail["index"])[0, ::7]  # every seventh anchor
np.savez_compressed(out, **record)
