"""One picture in, seven probabilities out. They are a guess about a face, not a reading of a feeling."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from .data import CLASSES, SIZE
from .evaluate import predict_logits

CAVEAT = "A guess about a face, not a reading of a feeling."


class ImageError(ValueError):
    """A picture that is absent, too large, or none at all. The message is one sentence."""


def to_gray(image: Image.Image) -> Image.Image:
    """Any mode of Pillow -> "L". 16 bits are scaled to 8, floats are taken as 0..1, transparent parts turn white."""
    if image.mode[0] in "IF":  # "I;16" and its kin, "I", "F": Pillow would clip these at 255
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        values = values * 255 if image.mode == "F" else values / 257
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if image.mode == "LAB":
        return image.getchannel("L")
    if "transparency" in image.info or image.mode[-1] in "Aa":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB").convert("L")


def read_face(path: Path | str) -> Tensor:
    """A picture -> (1, 1, 48, 48) uint8: turned as its EXIF says, gray, cut to its central square, resized.

    Reads what Pillow reads; of several frames, the first. Raises ImageError for anything else, and for a picture of
    more than Pillow's limit of Image.MAX_IMAGE_PIXELS, which is not decoded.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path}: this is a folder, not a picture")
    if not path.is_file():
        raise ImageError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise ImageError(f"{path}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.format == "EPS":  # Pillow would start Ghostscript and run it
                    raise ImageError(f"{path}: this is a program in PostScript, not a picture: save it as PNG")
                gray = to_gray(ImageOps.exif_transpose(image))
        face = ImageOps.fit(gray, (SIZE, SIZE), Image.Resampling.BICUBIC)  # smooths where it shrinks
    except ImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise ImageError(f"{path}: the picture has more than {limit} pixels: cut it to the face") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: this is not a picture that Pillow can read") from None
    except Exception as error:  # Pillow has many ways to say it
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: the picture is damaged or of an unknown kind ({reason})") from None
    return torch.from_numpy(np.array(face))[None, None]


def predict(net: nn.Module, path: Path | str) -> dict[str, float]:
    """The softmax of the network's logits, without margin, by class in the order of CLASSES; see `predict_logits`.

    Raises ImageError.
    """
    probabilities = predict_logits(net, read_face(path))[0].double().softmax(0)
    return dict(zip(CLASSES, probabilities.tolist(), strict=True))


def format_prediction(probabilities: dict[str, float], width: int = 40) -> str:
    """One line per class, the likeliest first, with a bar of `width` signs for 100 %; then the caveat."""
    rows = sorted(probabilities.items(), key=lambda row: -row[1])
    lines = [f"{name:9}{100 * p:6.2f} %  {'#' * round(width * p)}".rstrip() for name, p in rows]
    return "\n".join([*lines, CAVEAT])
