"""A network's files as other engines take them, its inputs, and what it costs to compute."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

CALIBRATION_RUNS = 16
# What an int8 network computes in int8: all that onnxruntime can, or products alone.
QUANTIZED = {"all operators": None, "products alone": ["Conv", "MatMul", "Gemm"]}


def with_f32_weights(path, to):
    """The network at `path` with every DequantizeLinear of constants worked out, written to `to`."""
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or not all(name in constants for name in node.input if name):
            nodes.append(node)
            continue
        values, scale, *zero = (numpy_helper.to_array(constants[name]) for name in node.input if name)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        along = lambda a: a.reshape(shape) if a.ndim == 1 and a.size > 1 else a
        shift = along(zero[0]).astype(np.float32) if zero else np.float32(0)
        worked_out = (values.astype(np.float32) - shift) * along(scale)
        model.graph.initializer.append(numpy_helper.from_array(worked_out, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input} | {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    onnx.save(model, to)


def inputs_of(path):
    """Values for each input, by name: the same that the bench in Rust takes."""
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {}
    for entry in graph.input:
        if entry.name not in constants:
            shape = [d.dim_value for d in entry.type.tensor_type.shape.dim]
            count = int(np.prod(shape))
            inputs[entry.name] = ((np.arange(count) * 37 % 101) / 50.0 - 1.0).astype(np.float32).reshape(shape)
    return inputs


def with_int8_arithmetic(plain, inputs, operators, has_vnni, to):
    """The f32 network at `plain`, statically quantized by onnxruntime, written to `to`.

    Activations u8, weights i8 per channel, as quantize-dequantize pairs; calibrated with `inputs` and others of their
    kind. Without VNNI the weights keep 7 bits, or sums of two products would overflow 16 bits.
    """
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            random = np.random.default_rng(1)
            drawn = lambda: {k: random.uniform(-1, 1, v.shape).astype(np.float32) for k, v in inputs.items()}
            self.batches = iter([inputs] + [drawn() for _ in range(CALIBRATION_RUNS - 1)])

        def get_next(self):
            return next(self.batches, None)

    logging.getLogger().setLevel(logging.ERROR)  # it advises a pass over the graph that changes nothing here
    quantization.quantize_static(
        str(plain), str(to), Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        reduce_range=not has_vnni, activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8, op_types_to_quantize=operators)


def ncnn_files(plain, inputs, folder):
    """The network at `plain` converted by pnnx, in `folder`."""
    folder.mkdir()
    model = onnx.load(plain)
    for node in model.graph.node:
        if node.op_type == "InstanceNormalization":
            # pnnx writes the shift before the scale, and ncnn reads the scale first.
            node.input[1], node.input[2] = node.input[2], node.input[1]
    plain = folder / "n.onnx"
    onnx.save(model, plain)
    shapes = ",".join(json.dumps(list(value.shape)).replace(" ", "") + "f32" for value in inputs.values())
    pnnx = Path(sys.executable).with_name("pnnx")
    command = [str(pnnx), str(plain), f"inputshape={shapes}", f"ncnnparam={folder}/n.param", f"ncnnbin={folder}/n.bin"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    param = folder / "n.param"
    param.write_text(in_words_of_ncnn(param.read_text()))


def in_words_of_ncnn(param):
    """What pnnx leaves as it was, by layers that ncnn has: a normalisation of each row, as one of each channel; blocks
    of 2×2 pixels from channels. Both are all that the exporter writes of the kind, the first with ε = 1e-5."""
    lines, reshapes = param.splitlines(), {}
    for i, line in enumerate(lines):
        kind, *words = line.split()
        if kind == "Reshape":
            reshapes[words[4]] = i
        elif kind == "nn.InstanceNorm1d":
            before = reshapes[words[3]]
            rows = lines[before].split()[-1].removeprefix("1=")
            lines[before] = lines[before].removesuffix(f"1={rows}") + f"1=1 2={rows}"
            lines[i] = " ".join(["InstanceNorm", *words, f"0={rows}", "1=1e-5", "2=1"])
        elif kind == "DepthToSpace":
            lines[i] = " ".join(["PixelShuffle", *words, "0=2", "1=1"])
    return "\n".join(lines) + "\n"


def parameters_of(plain):
    """Values of all constants of the network at `plain`, but for shapes and the like."""
    return sum(int(np.prod(t.dims)) for t in onnx.load(plain).graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


def operations_of(plain):
    """Floating-point operations of one run, two for each product of convolutions and matrix products; the rest is not
    counted."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(plain), strict_mode=True).graph
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        shapes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
    products = 0
    for node in graph.node:
        if node.op_type == "Conv":
            products += np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            products += np.prod(shapes[node.input[0]]) * np.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("MatMul", "Gemm"):
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            products += np.prod(shapes[node.output[0]]) * shapes[node.input[0]][-2 if turned else -1]
    return 2 * int(products)
