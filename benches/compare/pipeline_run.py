#!/usr/bin/env python3
"""A picture's pipeline by rissole and by onnxruntime, on one core and one thread, runs in turn.

The pipeline of onnxruntime is what a program in Python would be: the conditioner for each block, then the steps of
DPM-Solver++ 2M (Lu et al. 2022) with the denoiser for each block, the blocks put together, snapped to a codebook, the
decoder; numpy between the networks. Neighbours are random values and not retrieved, so its pictures show nothing; what
is computed does not depend on that. rissole's times are those that it reports of denoising and decoding, without loading
and retrieval. Prints milliseconds: best and median.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

import network_models as models
from network_engines import LOADERS

ROOT = Path(__file__).resolve().parents[2]


class Pipeline:
    """Draws with the networks of a bundle whose blocks see a margin of each other."""

    def __init__(self, model, folder):
        self.manifest = manifest = json.loads((model / "manifest.json").read_text())
        self.inputs, self.run = {}, {}
        for role in ("conditioner", "denoiser", "decoder"):
            plain = folder / f"{role}.onnx"
            models.with_f32_weights(model / f"{role}.onnx", plain)
            self.inputs[role] = models.inputs_of(plain)
            # The loader keeps the arrays: they are filled anew before each run.
            self.run[role] = LOADERS["onnxruntime"](plain, self.inputs[role])
        channels = manifest["latent"]["shape"]["channels"]
        self.codebook = np.random.default_rng(0).normal(size=(manifest["latent"]["codebook_size"], channels))
        self.codebook = self.codebook.astype(np.float32)
        timesteps = manifest["diffusion"]["timesteps"]
        # Nichol & Dhariwal 2021.
        angle = (np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * np.pi / 2
        self.alpha = np.sqrt(np.clip(np.cos(angle[1:]) ** 2 / np.cos(angle[0]) ** 2, 1e-5, 1))

    def draw(self, steps):
        grid, shape = self.manifest["grid"], self.manifest["latent"]["shape"]
        height, width = shape["height"] // grid["rows"], shape["width"] // grid["cols"]
        margin = self.manifest["coherence"]["margin"]
        canvas = np.zeros((1, shape["channels"], shape["height"] + 2 * margin, shape["width"] + 2 * margin), np.float32)
        inside = np.zeros_like(canvas[:, :1])
        whole = np.concatenate([canvas, inside], axis=1)
        # The thumbnail stands alone in a canvas of its own.
        alone = np.zeros((1, whole.shape[1], height + 2 * margin, width + 2 * margin), np.float32)
        alone[:, -1:, margin : margin + height, margin : margin + width] = 1
        if self.manifest["coherence"]["thumbnail"]:
            self.denoise(alone, [(0, 0)], (height, width), margin, steps)
        for halvings in range(grid.get("levels_between", 0), -1, -1):
            rows, cols = grid["rows"] >> halvings, grid["cols"] >> halvings
            level = whole[:, :, : rows * height + 2 * margin, : cols * width + 2 * margin].copy() if halvings else whole
            level[:, -1] = 0
            level[:, -1, margin : margin + rows * height, margin : margin + cols * width] = 1
            places = [(r * height, c * width) for r in range(rows) for c in range(cols)]
            self.denoise(level, places, (height, width), margin, steps)
        latent = whole[:, :-1, margin : margin + shape["height"], margin : margin + shape["width"]]
        self.inputs["decoder"]["latent"][:] = self.snapped(latent)
        return self.run["decoder"]()

    def denoise(self, canvas, places, size, margin, steps):
        """Draws into `canvas`, whose last channel says what is inside."""
        (height, width), random = size, np.random.default_rng(1)
        conditions = []
        for _ in places:
            for values in self.inputs["conditioner"].values():
                values[:] = random.normal(size=values.shape)
            conditions.append(self.run["conditioner"]().copy())
        blocks = [canvas[:, :-1, y + margin :, x + margin :][:, :, :height, :width] for y, x in places]
        for block in blocks:
            block[:] = random.normal(size=block.shape)
        times = np.linspace(len(self.alpha) - 1, 0, steps + 1).round().astype(int)
        earlier, step_before = [None] * len(places), None
        for now, later in zip(times, times[1:]):
            (a, s), (a_next, s_next) = (((x, np.sqrt(1 - x * x)) for x in (self.alpha[now], self.alpha[later])))
            step = np.log(a_next / s_next) - np.log(a / s)
            predictions = []
            for i, (y, x) in enumerate(places):
                inputs = self.inputs["denoiser"]
                inputs["latent"][:] = canvas[:, :, y : y + height + 2 * margin, x : x + width + 2 * margin]
                inputs["timestep"][:] = now
                inputs["condition"][:] = conditions[i]
                predictions.append(self.run["denoiser"]())
            for i, (block, prediction) in enumerate(zip(blocks, predictions)):
                data = a * block - s * prediction
                mixed = data
                if earlier[i] is not None:
                    mixed = data + step / step_before / 2 * (data - earlier[i])
                block[:] = s_next / s * block - a_next * np.expm1(-step) * mixed
                earlier[i] = data
            step_before = step

    def snapped(self, latent):
        if not self.manifest["latent"].get("snap_to_codebook"):
            return latent
        cells = latent.reshape(latent.shape[1], -1).T
        distances = (self.codebook**2).sum(1) - 2 * cells @ self.codebook.T
        return self.codebook[distances.argmin(1)].T.reshape(latent.shape)


def by_rissole(args, model, core, folder):
    command = [args.rissole, "sample", "--model", model, "--seed", "7", "--threads", "1", "--json"]
    # As the other's, the first warms up.
    command += ["--steps", args.steps, "--count", 2, "--out", folder / "drawn"]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True,
                          preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    times = json.loads(done.stdout)["pictures"][1]["report"]["times"]
    return (times["denoise"] + times["decode"]) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rissole", type=Path, help="the program, built in release")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "avatars64", help="the bundle")
    parser.add_argument("--int8", type=Path, help="the same bundle, quantized by `rissole-train quantize`")
    parser.add_argument("--steps", type=int, help="the bundle's, if not told")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    models_of = {"rissole": args.model, "rissole, integers": args.int8}
    sides = {side: model for side, model in models_of.items() if model}
    times = {side: [] for side in [*sides, "onnxruntime"]}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pipeline = Pipeline(args.model, folder)
        args.steps = args.steps or pipeline.manifest["diffusion"]["steps"]
        pipeline.draw(1)
        for _ in range(args.rounds):
            for side, model in sides.items():
                times[side].append(by_rissole(args, model, core, folder))
            started = time.perf_counter()
            pipeline.draw(args.steps)
            times["onnxruntime"].append((time.perf_counter() - started) * 1e3)
    print(f"{args.steps} steps")
    for side, spent in times.items():
        print(f"{side}: best {min(spent):.1f} ms, median {statistics.median(spent):.1f} ms")
    for side in sides:
        ratio = lambda of: of(times["onnxruntime"]) / of(times[side])
        print(f"onnxruntime takes {ratio(min):.2f} times as long as {side} (best), {ratio(statistics.median):.2f} (medians)")


if __name__ == "__main__":
    main()
