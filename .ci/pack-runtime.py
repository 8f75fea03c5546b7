"""Pack onnxruntime-web's loader and its WebAssembly into one script: pack-runtime.py DIST OUT.

A page that is opened from disk may load scripts, but neither modules nor other files.
"""

import base64
import gzip
import json
import sys
from pathlib import Path

dist, out = map(Path, sys.argv[1:])
name = "ort-wasm-simd-threaded"
content = {
    "loader": (dist / f"{name}.mjs").read_text("utf8"),
    "wasm": base64.b64encode(gzip.compress((dist / f"{name}.wasm").read_bytes(), 9, mtime=0)).decode(),
}
out.write_text(f"window.MIFAD_RUNTIME = {json.dumps(content)};\n", "utf8")
