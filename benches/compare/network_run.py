#!/usr/bin/env python3
"""Time of one run of each network of a bundle on one CPU thread: rissole beside tract, onnxruntime, OpenVINO, ncnn.

`cargo bench --bench network` gives the first two; the others run here. Everything is pinned to one core, the sides
alternate, and what is compared is processor time: medians over the rounds of the time of one run.

Networks are stored with int8 weights. onnxruntime gets them with the weights made f32 beforehand ("onnxruntime"), as do
OpenVINO and ncnn, and also as they are ("onnxruntime, int8"): the weights alone are int8 there, the arithmetic is f32.
An engine that cannot take a network is left out, with the reason on stderr.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parents[2]
ROLES = ["conditioner", "denoiser", "decoder", "encoder"]


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


def onnxruntime_side(path, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def openvino_side(path, inputs):
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer(inputs)[0]


def ncnn_side(path, inputs):
    import ncnn

    folder = Path(tempfile.mkdtemp(dir=path.parent))
    shapes = ",".join(json.dumps(list(value.shape)).replace(" ", "") + "f32" for value in inputs.values())
    pnnx = Path(sys.executable).with_name("pnnx")
    command = [str(pnnx), str(path), f"inputshape={shapes}", f"ncnnparam={folder}/n.param", f"ncnnbin={folder}/n.bin"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
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


def timed(run, milliseconds):
    """Milliseconds of processor time of one run."""
    started, runs = time.process_time(), 0
    while (spent := (time.process_time() - started) * 1e3) < milliseconds or runs == 0:
        run()
        runs += 1
    return spent / runs


def rissole_round(bench, model):
    """Both Rust sides of every network, in one process of their own."""
    done = subprocess.run([str(bench), "--json"], env=os.environ | {"RISSOLE_MODEL": str(model)}, check=True,
                          stdout=subprocess.PIPE, text=True)
    return {Path(row["network"]).stem: row for row in map(json.loads, done.stdout.splitlines())}


def build_bench():
    """The benchmark's binary."""
    command = ["cargo", "bench", "--bench", "network", "--no-run", "--locked", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    artifacts = [json.loads(line) for line in done.stdout.splitlines()]
    return next(a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] == "network")


def sides_of(path, folder):
    """The engines that take the network at `path`, each ready to run."""
    plain = folder / path.name
    with_f32_weights(path, plain)
    inputs = inputs_of(path)
    makers = {
        "onnxruntime": lambda: onnxruntime_side(plain, inputs),
        "onnxruntime, int8": lambda: onnxruntime_side(path, inputs),
        "OpenVINO": lambda: openvino_side(plain, inputs),
        "ncnn": lambda: ncnn_side(plain, inputs),
    }
    sides, expected = {}, None
    for name, make in makers.items():
        try:
            run = make()
            out = np.asarray(run()).ravel()
        except Exception as error:  # an engine may fail in any way of its own
            print(f"{path.stem}: not by {name}: {error}", file=sys.stderr)
            continue
        expected = out if expected is None else expected
        worst = float(np.abs(out - expected).max()) if out.shape == expected.shape else float("inf")
        if worst > 0.02 * float(np.abs(expected).max()):
            print(f"{path.stem}: not by {name}: its output differs by {worst:.3g}", file=sys.stderr)
            continue
        sides[name] = run
    return sides


def versions():
    import importlib.metadata

    names = "onnxruntime", "openvino", "ncnn"
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "avatars64", help="the bundle")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--milliseconds", type=float, default=300, help="time of one engine's turn")
    parser.add_argument("--core", type=int, help="core to run on; the last one allowed")
    args = parser.parse_args()
    bench = build_bench()
    core = sorted(os.sched_getaffinity(0))[-1] if args.core is None else args.core
    os.sched_setaffinity(0, {core})
    print(f"{versions()}; core {core}, one thread")
    with tempfile.TemporaryDirectory() as folder:
        paths = {role: args.model / f"{role}.onnx" for role in ROLES}
        sides = {role: sides_of(path, Path(folder)) for role, path in paths.items() if path.exists()}
        times = {role: {} for role in sides}
        for _ in range(args.rounds):
            ours = rissole_round(bench, args.model.resolve())
            for role in sides:
                turns = {"rissole": ours[role]["ours"], "tract": ours[role]["tract"]}
                turns |= {name: timed(run, args.milliseconds) for name, run in sides[role].items()}
                for name, spent in turns.items():
                    times[role].setdefault(name, []).append(spent)
    for role, by_side in times.items():
        medians = {name: statistics.median(spent) for name, spent in by_side.items()}
        print(f"{role}: milliseconds of processor time for one run (of the rissole's)")
        for name, spent in medians.items():
            low, high = min(by_side[name]), max(by_side[name])
            print(f"  {name:18} {spent:8.3f}  {spent / medians['rissole']:5.2f}×  ({low:.3f}…{high:.3f})")


if __name__ == "__main__":
    main()
