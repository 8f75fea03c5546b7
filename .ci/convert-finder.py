"""Convert MediaPipe's face detector from TFLite to ONNX: convert-finder.py TFLITE OUT.

OUT ends in .onnx, or in .js for a script that a page can load when it is opened from disk. The detector is BlazeFace,
short range. Needs the packages tflite and onnx. TFLite stores images as (batch, height, width, channels), ONNX as
(batch, channels, height, width): the weights are turned here, and the outputs in the graph, before they are flattened.
An operator, option or type that this file does not know ends it with a sentence that names it.
"""

import base64
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import tflite
from onnx import TensorProto, helper, numpy_helper

ABOUT = {
    "source": "face_detection_short_range.tflite of the npm package @mediapipe/face_detection 0.4.1657300184",
    "changes": "the same weights and operators, written as ONNX and packed by .ci/convert-finder.py",
    "licence": "Apache-2.0, see LICENSE beside this file",
}
DTYPES = {tflite.TensorType.FLOAT16: "<f2", tflite.TensorType.INT32: "<i4"}
OPERATORS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}


def expect(condition, what):
    if not condition:
        sys.exit(f"convert-finder.py cannot convert {what}: take the file that refresh-vendor takes, or extend it")


def same_pads(size, kernel, stride):
    """What SAME adds before and after `size` pixels; an odd one goes after, as TFLite has it."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Converter:
    def __init__(self, content):
        self.model = tflite.Model.GetRootAs(content, 0)
        expect(self.model.SubgraphsLength() == 1, "a model of several graphs")
        self.graph = self.model.Subgraphs(0)
        self.inputs, self.outputs = self.graph.InputsAsNumpy(), self.graph.OutputsAsNumpy()
        self.nodes, self.weights, self.half = [], [], {}  # half: the float16 constant behind each DEQUANTIZE
        for number in range(self.graph.OperatorsLength()):
            self.convert(self.graph.Operators(number))

    def name(self, tensor):
        outside = tensor in self.inputs or tensor in self.outputs
        return self.graph.Tensors(tensor).Name().decode() if outside else f"t{tensor}"

    def shape(self, tensor):
        return tuple(map(int, self.graph.Tensors(tensor).ShapeAsNumpy()))

    def constant(self, tensor):
        info = self.graph.Tensors(tensor)
        expect(info.Type() in DTYPES, f"constants of type {info.Type()}")
        data = self.model.Buffers(info.Buffer()).DataAsNumpy()
        expect(isinstance(data, np.ndarray), f"{info.Name().decode()}, which is computed and should be constant")
        return data.view(DTYPES[info.Type()]).reshape(self.shape(tensor))

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def hold(self, values, name):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weight(self, tensor, turn=(0,)):
        """A float16 constant, its axes turned, and the cast to float32 that the runtime does once, when it loads."""
        expect(tensor in self.half, "weights that are not float16")
        half = self.hold(self.constant(self.half[tensor]).transpose(turn), f"half{tensor}")
        return self.node("Cast", [half], f"t{tensor}", to=TensorProto.FLOAT)

    def window(self, options, image, kernel):
        """The attributes of a convolution or a pooling over `image` with `kernel` (height, width)."""
        strides, pads = (options.StrideH(), options.StrideW()), [(0, 0), (0, 0)]
        if options.Padding() == tflite.Padding.SAME:
            pads = [same_pads(*sizes) for sizes in zip(self.shape(image)[1:3], kernel, strides, strict=True)]
        (top, bottom), (left, right) = pads
        return {"kernel_shape": kernel, "strides": strides, "pads": (top, left, bottom, right)}

    def convert(self, operator):
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        kind = OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs, (output,) = list(map(int, operator.InputsAsNumpy())), map(int, operator.OutputsAsNumpy())
        names, out = [self.name(tensor) for tensor in inputs], self.name(output)
        images = all(len(self.shape(tensor)) == 4 for tensor in inputs[:1])

        def options(of):
            known, table = of(), operator.BuiltinOptions()
            known.Init(table.Bytes, table.Pos)
            expect(known.FusedActivationFunction() == tflite.ActivationFunctionType.NONE, f"an activation in {kind}")
            return known

        if kind == "DEQUANTIZE":
            self.half[output] = inputs[0]
        elif kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            image, weights, bias = inputs
            deep, channels, kernel = kind == "DEPTHWISE_CONV_2D", self.shape(image)[3], self.shape(weights)[1:3]
            known = options(tflite.DepthwiseConv2DOptions if deep else tflite.Conv2DOptions)
            expect(known.DilationHFactor() == known.DilationWFactor() == 1, f"dilation in {kind}")
            expect(not deep or self.shape(weights)[3] == channels, "several filters a channel")
            turned = self.weight(weights, (3, 0, 1, 2) if deep else (0, 3, 1, 2))  # to (out, in, height, width)
            names = [names[0], turned, self.weight(bias)]
            self.node("Conv", names, out, group=channels if deep else 1, **self.window(known, image, kernel))
        elif kind == "MAX_POOL_2D":
            known = options(tflite.Pool2DOptions)
            kernel = known.FilterHeight(), known.FilterWidth()
            self.node("MaxPool", names, out, **self.window(known, inputs[0], kernel))
        elif kind == "ADD":
            options(tflite.AddOptions)
            expect(self.shape(inputs[0]) == self.shape(inputs[1]), "an addition of different shapes")
            self.node("Add", names, out)
        elif kind == "RELU":
            self.node("Relu", names, out)
        elif kind == "PAD":  # zeros for the channels that a deeper layer has more
            before, after = self.constant(inputs[1])[[0, 3, 1, 2]].T
            self.node("Pad", [names[0], self.hold(np.int64([*before, *after]), f"pads{output}")], out)
        elif kind == "RESHAPE" and images and len(self.shape(output)) == 3:
            turned = self.node("Transpose", names[:1], f"turned{output}", perm=[0, 2, 3, 1])
            self.node("Reshape", [turned, self.hold(np.int64(self.shape(output)), f"shape{output}")], out)
        elif kind == "CONCATENATION" and not images:
            self.node("Concat", names, out, axis=options(tflite.ConcatenationOptions).Axis())
        else:
            expect(False, f"the operator {kind} with these shapes")

    def finish(self):
        """The checked ONNX model: `input` (1, 3, 128, 128) in [-1, 1] -> the outputs under the names they had."""

        def info(tensor, *axes):
            shape = [self.shape(tensor)[a] for a in axes] or self.shape(tensor)
            return helper.make_tensor_value_info(self.name(tensor), TensorProto.FLOAT, shape)

        ends = [info(int(tensor)) for tensor in self.outputs]
        graph = helper.make_graph(self.nodes, "finder", [info(int(self.inputs[0]), 0, 3, 1, 2)], ends, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


if len(sys.argv) != 3:
    sys.exit(__doc__.splitlines()[0])
source, out = map(Path, sys.argv[1:])
model = Converter(source.read_bytes()).finish()
if out.suffix == ".onnx":
    out.write_bytes(model)
else:
    content = ABOUT | {"model": base64.b64encode(gzip.compress(model, 9, mtime=0)).decode()}
    out.write_text(f"window.MIFAD_FINDER = {json.dumps(content)};\n", "utf8")
