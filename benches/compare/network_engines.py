"""Other engines with a Python interface: how each loads a network, on one thread.

A loader takes a file and the inputs by name, and gives a function that runs the network once.
"""

import numpy as np


def onnxruntime_loader(path, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def openvino_loader(path, inputs):
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer(inputs)[0]


def ncnn_loader(folder, inputs):
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    if net.load_param(f"{folder}/n.param") != 0 or net.load_model(f"{folder}/n.bin") != 0:
        raise RuntimeError("ncnn does not load it")
    mats = [ncnn.Mat(np.ascontiguousarray(value[0])) for value in inputs.values()]

    def run():
        extractor = net.create_extractor()
        for i, mat in enumerate(mats):
            extractor.input(f"in{i}", mat)
        status, out = extractor.extract("out0")
        if status != 0:
            raise RuntimeError("ncnn does not run it")
        return np.array(out)[None]

    return run


LOADERS = {"onnxruntime": onnxruntime_loader, "openvino": openvino_loader, "ncnn": ncnn_loader}
# What is shown → the engine, and the file that it takes.
SIDES = {
    "onnxruntime": ("onnxruntime", "f32"),
    "onnxruntime, int8 weights": ("onnxruntime", "stored"),
    "onnxruntime, int8 arithmetic": ("onnxruntime", "int8"),
    "OpenVINO": ("openvino", "f32"),
    "OpenVINO, int8 arithmetic": ("openvino", "int8"),
    "ncnn": ("ncnn", "ncnn"),
}
