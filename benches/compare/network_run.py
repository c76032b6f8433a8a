#!/usr/bin/env python3
"""Every network of a bundle by rissole, tract, onnxruntime, OpenVINO, ncnn and rten, on one core and one thread.

Prints a table in Markdown for each network:
  ms         processor time of one run: median over the rounds, in which the sides alternate (lowest…highest)
  ×          the same, of rissole's
  GFLOP/s    two operations for each product of convolutions and matrix products, over that time
  of peak    the same, of what the core reaches in network_peak.rs
  start      milliseconds from the start of loading to the end of the first run, files in the page cache: the best of
             --starts processes that each do nothing else
  heap       MiB allocated at most, counted by the allocator (Rust alone)
  private    MiB of memory not backed by files by which such a process has grown after the second run
  resident   MiB by which its resident set, mapped files included, has grown at most
  SNR        dB by which the output's power is above that of its difference from onnxruntime's in f32

Networks are stored with int8 weights; "int8 weights" runs that file, which is f32 arithmetic. "int8 arithmetic" is
quantized anew by onnxruntime, activations too; for rissole it is the bundle that --int8 names. All others get the
weights made f32 beforehand. An engine that cannot take a network, or whose f32 output is off by more than 2 % of the
largest value, is left out; stderr says why.
"""

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import network_models as models
from network_engines import LOADERS, SIDES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROLES = ["conditioner", "denoiser", "decoder", "encoder"]
RUST = {"rissole": "ours", "tract": "tract"}
IN_INT8 = "rissole, int8 arithmetic"


def output_of(command, **more):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True, **more).stdout


class Programs:
    """The programs in Rust, and what the core reaches at most."""

    def __init__(self, model, in_int8, folder):
        self.environment, self.in_int8 = os.environ | {"RISSOLE_MODEL": str(model)}, in_int8
        target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
        self.bench = self.built(["bench", "--bench", "network", "--no-run"], ROOT, target, "network")
        self.rten = self.built(["build", "--release"], HERE / "rten", target, "rten-side")
        self.peak_program = folder / "peak"
        # With AVX-512 the vectorizer of loops makes vectors across the chains, a hundredth as fast.
        output_of(["rustc", "-O", "-Ctarget-cpu=native", "-Cno-vectorize-loops", HERE / "network_peak.rs", "-o", self.peak_program])

    @staticmethod
    def built(command, folder, target, name):
        lines = output_of(["cargo", *command, "--locked", "--message-format=json", "--target-dir", target], cwd=folder)
        artifacts = [json.loads(line) for line in lines.splitlines()]
        return next(a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] == name)

    def peak(self):
        return float(output_of([self.peak_program]))

    def environment_of(self, side):
        return os.environ | {"RISSOLE_MODEL": str(self.in_int8)} if side == IN_INT8 else self.environment

    def sides(self, role):
        """Those of this crate; int8 arithmetic only where it makes the network another one."""
        files = [model / f"{role}.onnx" for model in (Path(self.environment["RISSOLE_MODEL"]), self.in_int8) if model]
        is_other = len(files) == 2 and files[0].read_bytes() != files[1].read_bytes()
        return [*RUST, IN_INT8] if is_other else [*RUST]

    def times(self, role):
        """Milliseconds of a network's run by the sides of the bench."""
        row = self.timed(role, "rissole")
        times = {side: row[key] for side, key in RUST.items() if key in row}
        return times | {side: self.timed(role, side)["ours"] for side in self.sides(role) if side not in RUST}

    def timed(self, role, side):
        output = output_of([self.bench, "--json", "--only", f"{role}.onnx"], env=self.environment_of(side))
        return next((row for row in map(json.loads, output.splitlines()) if "ours" in row), {})

    def once(self, role, side):
        command = [self.bench, "--once", f"{role}.onnx", RUST.get(side, "ours")]
        return json.loads(output_of(command, env=self.environment_of(side)))


def timed(run, milliseconds):
    """Milliseconds of processor time of one run."""
    started, runs = time.process_time(), 0
    while (spent := (time.process_time() - started) * 1e3) < milliseconds or runs == 0:
        run()
        runs += 1
    return spent / runs


class Network:
    """One network: its files, and what is measured of each side."""

    def __init__(self, role, path, folder, has_vnni):
        self.role, self.path, self.files, self.failures = role, path, {"stored": path}, {}
        self.inputs = models.inputs_of(path)
        self.inputs_file = folder / f"{role}.npz"
        np.savez(self.inputs_file, **self.inputs)
        plain = self.files["f32"] = folder / path.name
        models.with_f32_weights(path, plain)
        self.operations, self.parameters = models.operations_of(plain), models.parameters_of(plain)
        self.attempt("int8", lambda: self.quantized(plain, folder, has_vnni))
        self.attempt("ncnn", lambda: models.ncnn_files(plain, self.inputs, folder / f"{role}-ncnn"))
        self.files.setdefault("ncnn", folder / f"{role}-ncnn")
        self.once, self.times, self.turns = {}, {}, {}

    def attempt(self, kind, make):
        try:
            made = make()
            if made is not None:
                self.files[kind] = made
        except Exception as error:  # converters may fail in any way of their own
            self.failures[kind] = error

    def quantized(self, plain, folder, has_vnni):
        """Of what may be quantized, the faster."""
        files, times = {}, {}
        for name, operators in models.QUANTIZED.items():
            files[name] = folder / f"{self.role}-int8-{name.split()[0]}.onnx"
            models.with_int8_arithmetic(plain, self.inputs, operators, has_vnni, files[name])
        runs = {name: LOADERS["onnxruntime"](file, self.inputs) for name, file in files.items()}
        for _ in range(5):
            for name, run in runs.items():
                times.setdefault(name, []).append(timed(run, 100))
        self.in_int8 = min(runs, key=lambda name: min(times[name]))
        return files[self.in_int8]

    def makers(self, programs):
        """Each side's start in a process of its own."""
        makers = {side: lambda side=side: programs.once(self.role, side) for side in programs.sides(self.role)}
        for side, (engine, kind) in SIDES.items():
            command = [sys.executable, HERE / "network_once.py", engine, self.files.get(kind), self.inputs_file]
            makers[side] = lambda kind=kind, command=command: self.started(kind, command)
        makers["rten"] = lambda: self.started("f32", [programs.rten, self.files["f32"]])
        return makers

    def started(self, kind, command):
        if kind in self.failures:
            raise self.failures[kind]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1])
        return json.loads(done.stdout.splitlines()[-1])

    def measure_once(self, programs, starts):
        """Start, memory and output of each side; those that are not up to it are left out."""
        makers = self.makers(programs)
        runs = {}
        for _ in range(starts):
            for side, make in list(makers.items()):
                try:
                    runs.setdefault(side, []).append(make())
                except Exception as error:
                    print(f"{self.role}: not by {side}: {error}", file=sys.stderr)
                    del makers[side]
        expected = np.array(runs["onnxruntime"][0]["output"])
        for side in makers:
            output = np.array(runs[side][0]["output"])
            if output.shape != expected.shape:
                print(f"{self.role}: not by {side}: an output of {output.size} values", file=sys.stderr)
                continue
            noise = output - expected
            if "arithmetic" not in side and np.abs(noise).max() > 0.02 * np.abs(expected).max():
                print(f"{self.role}: not by {side}: its output differs by {np.abs(noise).max():.3g}", file=sys.stderr)
                continue
            figures = {name: statistics.median(run[name] for run in runs[side] if name in run)
                       for name in runs[side][0] if name != "output"}
            figures["first_ms"] = min(run["first_ms"] for run in runs[side])
            figures["snr"] = float(10 * np.log10(np.sum(expected**2) / max(np.sum(noise**2), 1e-30)))
            self.once[side] = figures

    def ready(self, programs, milliseconds):
        """Loads what is timed in this process."""
        for side in self.once:
            if side in SIDES:
                engine, kind = SIDES[side]
                run = LOADERS[engine](self.files[kind], self.inputs)
                run()
                self.turns[side] = lambda run=run: timed(run, milliseconds)
            elif side == "rten":
                command = [programs.rten, self.files["f32"], milliseconds]
                self.turns[side] = lambda command=command: json.loads(output_of(command))["ms"]

    def round(self, programs):
        turns = programs.times(self.role) | {side: turn() for side, turn in self.turns.items()}
        for side, spent in turns.items():
            self.times.setdefault(side, []).append(spent)

    def median(self, side):
        return statistics.median(self.times[side])

    def print(self, peak):
        print(f"\n### {self.role}: {self.parameters:,} parameters, {self.operations * 1e-6:.1f} MFLOP a run\n")
        print("| engine | ms | × | GFLOP/s | of peak | start ms | heap | private | resident | SNR dB |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
        mib = lambda figures, name: f"{figures[name] / 2**20:.1f}" if name in figures else "–"
        for side in sorted(self.times, key=self.median):
            spent, figures = self.median(side), self.once[side]
            rate = self.operations / spent * 1e-6
            snr = "–" if side == "onnxruntime" else f"{figures['snr']:.0f}"
            print(f"| {side} | {spent:.2f} ({min(self.times[side]):.2f}…{max(self.times[side]):.2f}) "
                  f"| {spent / self.median('rissole'):.2f} | {rate:.0f} | {rate / peak:.0%} | {figures['first_ms']:.0f} "
                  f"| {mib(figures, 'heap')} | {mib(figures, 'anonymous')} | {mib(figures, 'resident')} | {snr} |")
        if "int8" in self.files:
            print(f"\nIn int8 arithmetic: {self.in_int8}, the faster choice for onnxruntime.")


def print_picture(networks, manifest):
    """What the networks of one picture take: times of one run × runs."""
    grid = manifest["grid"]
    levels = range(grid.get("levels_between", 0) + 1)
    blocks = sum((grid["rows"] >> halvings) * (grid["cols"] >> halvings) for halvings in levels)
    blocks += int(manifest["coherence"]["thumbnail"])
    counts = {"conditioner": blocks, "denoiser": blocks * manifest["diffusion"]["steps"], "decoder": 1}
    words = ", ".join(f"{count} × {role}" for role, count in counts.items())
    print(f"\n### A picture's networks: {words}\n")
    print("Times of one run × runs, summed; what is between the networks is left out.\n")
    print("| engine | ms | × |\n|---|---:|---:|")
    # A network without integers is the same in the quantized bundle.
    by = lambda role, side: "rissole" if side == IN_INT8 and side not in networks[role].times else side
    sides = [side for side in networks["denoiser"].times if all(by(role, side) in networks[role].times for role in counts)]
    totals = {side: sum(networks[role].median(by(role, side)) * count for role, count in counts.items()) for side in sides}
    for side in sorted(totals, key=totals.get):
        print(f"| {side} | {totals[side]:.0f} | {totals[side] / totals['rissole']:.2f} |")


def processor():
    """The processor's name, and its flags."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    found = lambda *names: next((value.strip() for name, _, value in lines if name.strip() in names), "unknown")
    return found("model name"), set(found("flags", "Features").split())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "avatars64", help="the bundle")
    parser.add_argument("--int8", type=Path, help="the same bundle, quantized by `rissole-train quantize`")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--milliseconds", type=float, default=300, help="time of one engine's turn")
    parser.add_argument("--core", type=int, help="core to run on; the last one allowed")
    parser.add_argument("--networks", nargs="+", choices=ROLES, default=ROLES)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        programs = Programs(args.model.resolve(), args.int8 and args.int8.resolve(), folder)
        core = sorted(os.sched_getaffinity(0))[-1] if args.core is None else args.core
        os.sched_setaffinity(0, {core})
        name, flags = processor()
        vector = [flag for flag in ("fma", "avx2", "avx512f", "asimd", "asimddp") if flag in flags]
        has_vnni = any("vnni" in flag or flag == "asimddp" for flag in flags)
        print("rten " + rten_version() + "".join(f", {n} {importlib.metadata.version(n)}" for n in LOADERS))
        print(f"{name} ({', '.join(vector)}; {'with' if has_vnni else 'without'} int8 dot products), one core, one thread")
        networks = {}
        for role in args.networks:
            if (path := args.model / f"{role}.onnx").exists():
                networks[role] = Network(role, path, folder, has_vnni)
                networks[role].measure_once(programs, args.starts)
                networks[role].ready(programs, args.milliseconds)
        peaks = []
        for _ in range(args.rounds):
            for network in networks.values():
                network.round(programs)
            peaks.append(programs.peak())
        print(f"f32 peak of the core: {max(peaks):.1f} GFLOP/s")
        for network in networks.values():
            network.print(max(peaks))
        if all(role in networks for role in ROLES[:3]):
            print_picture(networks, json.loads((args.model / "manifest.json").read_text()))


def rten_version():
    import tomllib

    packages = tomllib.loads((HERE / "rten" / "Cargo.lock").read_text())["package"]
    return next(package["version"] for package in packages if package["name"] == "rten")


if __name__ == "__main__":
    main()
