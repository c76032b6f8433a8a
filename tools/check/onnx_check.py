#!/usr/bin/env python3
"""Checks exported networks against a second implementation of ONNX.

    python3 -m venv .venv && .venv/bin/pip install -r tools/check/requirements.txt
    .venv/bin/python tools/check/onnx_check.py models/avatars64 [MORE_FOLDERS_OR_FILES]

Every .onnx file under the given paths must pass `onnx.checker` with full shape inference, have static shapes
with batch 1, load in onnxruntime, and give finite outputs of the declared shapes on random inputs that depend
on the seed and the inputs' names only.

With `--values DIR`, inputs and outputs come from tract instead and onnxruntime must agree. DIR holds, for a file
NAME.onnx, `NAME/TENSOR.f32` for each input and output: raw little-endian f32 in row-major order, as the trainer's
`export::record_values` writes them.

Exit code 0: all files are good; 1: some are not; 2: usage.
"""

import argparse
import pathlib
import sys
import zlib

import numpy as np
import onnx
import onnxruntime


def static_shape(value):
    """Name and shape of a graph input or output."""
    dims = value.type.tensor_type.shape.dim
    if not all(d.HasField("dim_value") and d.dim_value > 0 for d in dims):
        raise ValueError(f"{value.name} has a dimension that is not static")
    shape = [d.dim_value for d in dims]
    if not shape or shape[0] != 1:
        raise ValueError(f"{value.name} {shape} does not have batch 1")
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise ValueError(f"{value.name} is not float32")
    return value.name, shape


def random_input(name, shape, seed):
    """Values that fit what the name means: a timestep, a one-hot position, else standard normal."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name == "timestep":
        return rng.integers(0, 1000, shape).astype(np.float32)
    if name == "position":
        one_hot = np.zeros(shape, np.float32)
        one_hot[0, rng.integers(shape[1])] = 1
        return one_hot
    return rng.standard_normal(shape, np.float32)


def read_values(folder, name, shape):
    values = np.fromfile(folder / f"{name}.f32", "<f4")
    if values.size != np.prod(shape):
        raise ValueError(f"{folder / name}.f32 holds {values.size} values, not {np.prod(shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{folder / name}.f32 has values that are not finite")
    return values.reshape(shape)


def run(path, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 2
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def check(path, args):
    """Raises where the file is not good; else returns a line about it."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    input_shapes = dict(static_shape(v) for v in model.graph.input)
    output_shapes = dict(static_shape(v) for v in model.graph.output)

    recorded = args.values / path.stem if args.values else None
    if recorded:
        inputs = {name: read_values(recorded, name, shape) for name, shape in input_shapes.items()}
    else:
        inputs = {name: random_input(name, shape, args.seed) for name, shape in input_shapes.items()}

    error = 0.0
    for (name, shape), found in zip(output_shapes.items(), run(path, inputs), strict=True):
        if list(found.shape) != shape:
            raise ValueError(f"{name} is {list(found.shape)}, declared {shape}")
        if not np.isfinite(found).all():
            raise ValueError(f"{name} has values that are not finite")
        if recorded:
            expected = read_values(recorded, name, shape)
            error = max(error, float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12)))
            if not error <= args.tolerance:
                raise ValueError(f"{name} differs by {error:.2e} of its largest value; {args.tolerance:.0e} is allowed")
    weights = sum(np.prod(w.dims, dtype=int) for w in model.graph.initializer)
    compared = f", within {error:.1e} of the recorded outputs" if recorded else ""
    return f"{len(model.graph.node)} nodes, {weights:,} weights, {path.stat().st_size:,} bytes{compared}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=pathlib.Path, help="bundles, folders or files")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random inputs")
    parser.add_argument("--values", type=pathlib.Path, metavar="DIR", help="recorded inputs and outputs to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest error, relative to the largest value")
    args = parser.parse_args()
    if missing := [str(p) for p in args.paths if not p.exists()]:
        parser.error("no such file or folder: " + ", ".join(missing))
    files = sorted({f for p in args.paths for f in ([p] if p.is_file() else p.rglob("*.onnx"))})
    if not files:
        parser.error("no .onnx file under the given paths")
    failed = 0
    for path in files:
        try:
            print(f"ok    {path}: {check(path, args)}")
        except Exception as fault:  # whatever onnx or onnxruntime finds wrong with this file; go on to the next
            failed += 1
            print(f"FAIL  {path}: {fault}")
    print(f"{len(files) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
