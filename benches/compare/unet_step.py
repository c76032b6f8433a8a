#!/usr/bin/env python3
"""Time of one training step of the block U-Net on one CPU thread: `rissole-train bench-step` beside PyTorch.

Both sides train the same network (the script refuses to compare if their parameters differ in number) on the same
shapes: forward, mean squared error, backward, clipping of the gradient's norm, AdamW, moving average of the
weights. Drawing the batch is not timed. Runs alternate, so that a change of the machine's speed meets both.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

BLOCK = 8  # height and width of a block
POSITIONS = 4  # a grid of 2×2 blocks
NEIGHBOURS = 8
EMBEDDING = 128
WARM_UP = 2  # steps that are not timed, as in bench-step


def groups(channels):
    """At most 8 groups of at least 8 channels, as in tools/src/model/layers.rs."""
    return next((g for g in range(8, 0, -1) if channels % g == 0 and channels // g >= 8), 1)


def norm(channels):
    return nn.GroupNorm(groups(channels), channels)


def conv(inputs, outputs, kernel=3, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


class Residual(nn.Module):
    """Norm, SiLU, conv, time embedding, norm, SiLU, conv, skip."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm_in, self.conv_in = norm(inputs), conv(inputs, outputs)
        self.time = nn.Linear(EMBEDDING, outputs)
        self.norm_out, self.conv_out = norm(outputs), conv(outputs, outputs)
        self.skip = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, x, embedding):
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = h + self.time(embedding)[:, :, None, None]
        return self.skip(x) + self.conv_out(F.silu(self.norm_out(h)))


class Attention(nn.Module):
    """Self-attention over all cells, heads of 32 channels."""

    def __init__(self, channels):
        super().__init__()
        self.heads = channels // 32 if channels % 32 == 0 else 1
        self.norm, self.qkv, self.out = norm(channels), conv(channels, 3 * channels, 1), conv(channels, channels, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(n, 3, self.heads, c // self.heads, h * w).transpose(-1, -2)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(1))
        return x + self.out(mixed.transpose(-1, -2).reshape(n, c, h, w))


class Unet(nn.Module):
    """Residual blocks, stride-2 down, attention in the middle, nearest upsampling, skips by concatenation."""

    def __init__(self, widths, residuals):
        super().__init__()
        self.down, self.halve, self.up, self.grow = (nn.ModuleList() for _ in range(4))
        width = widths[0]
        for i, w in enumerate(widths):
            self.down.append(nn.ModuleList(Residual(width if r == 0 else w, w) for r in range(residuals)))
            self.up.append(nn.ModuleList(Residual(2 * w, w) for _ in range(residuals)))
            if i + 1 < len(widths):
                self.halve.append(conv(w, w, stride=2))
                self.grow.append(conv(widths[i + 1], w))
            width = w
        self.middle_in, self.attention, self.middle_out = Residual(width, width), Attention(width), Residual(width, width)
        self.norm = norm(widths[0])

    def forward(self, x, embedding):
        skips = []
        for i, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, embedding)
                skips.append(x)
            if i < len(self.halve):
                x = self.halve[i](x)
        x = self.middle_out(self.attention(self.middle_in(x, embedding)), embedding)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                x = self.grow[i](F.interpolate(x, scale_factor=2, mode="nearest"))
            for block in self.up[i]:
                x = block(torch.cat([x, skips.pop()], 1), embedding)
        return F.silu(self.norm(x))


class Denoiser(nn.Module):
    """Conditioner and denoiser as trained together: tools/src/model/denoiser.rs, no thumbnail, no margin."""

    def __init__(self, channels, widths, residuals):
        super().__init__()
        width = widths[0]
        self.neighbours, self.condition = conv(NEIGHBOURS * channels, width), conv(width, width)
        self.stem, self.norm, self.mix = conv(channels, width), nn.LayerNorm([width, BLOCK, BLOCK]), conv(width, width)
        self.time = nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.position = nn.Linear(POSITIONS, EMBEDDING)
        self.unet, self.out = Unet(widths, residuals), conv(width, channels)
        half = EMBEDDING // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(half) / half))

    def forward(self, noisy, timestep, position, neighbours):
        condition = self.condition(F.silu(self.neighbours(neighbours)))
        x = self.mix(self.norm(self.stem(noisy) + condition))
        angles = timestep * self.frequencies
        embedding = self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.position(position)
        return self.out(self.unet(x, F.silu(embedding)))


class Trainer:
    """PyTorch at its best on one thread: fused AdamW, multi-tensor clipping and moving average."""

    def __init__(self, args, memory_format):
        torch.manual_seed(1)
        self.args, self.memory_format = args, memory_format
        self.model = Denoiser(args.channels, args.widths, args.residuals).to(memory_format=memory_format)
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=2e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )

    def parameters(self):
        return sum(p.numel() for p in self.model.parameters())

    def batch(self):
        n, c = self.args.batch, self.args.channels

        def block(channels):
            return torch.randn(n, channels, BLOCK, BLOCK).to(memory_format=self.memory_format)

        position = F.one_hot(torch.randint(POSITIONS, (n,)), POSITIONS).float()
        return (block(c), torch.randint(1000, (n, 1)).float(), position, block(NEIGHBOURS * c)), block(c)

    def step(self, inputs, target):
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(self.model(*inputs), target)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.model.parameters()), 0.001)
        return loss.item()

    def measure(self, steps):
        """Median seconds of a step: CPU time, wall time."""
        cpu, wall = [], []
        for i in range(steps + WARM_UP):
            inputs, target = self.batch()
            start = (time.process_time(), time.perf_counter())
            self.step(inputs, target)
            if i >= WARM_UP:
                cpu.append(time.process_time() - start[0])
                wall.append(time.perf_counter() - start[1])
        return {"cpu": statistics.median(cpu), "wall": statistics.median(wall), "parameters": self.parameters()}


def measure_rissole(args):
    """The same of `rissole-train`, in a process of its own."""
    command = [args.rissole, "--threads", "1", "--device", "cpu", "bench-step", "--steps", args.steps, "--batch", args.batch]
    command += ["--channels", args.channels, "--widths", ",".join(map(str, args.widths))]
    command += ["--residuals", args.residuals]
    try:
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, text=True)
    except FileNotFoundError:
        sys.exit(f"{args.rissole} is not there; build it: cargo build --release -p rissole-train")
    except subprocess.CalledProcessError as error:
        sys.exit(f"rissole-train failed with exit code {error.returncode}")
    report = json.loads(done.stdout)
    wall = report["seconds_per_step"]
    return {"cpu": report.get("cpu_seconds_per_step"), "wall": wall, "parameters": report["parameters"]}


def pin(core):
    """Keeps this process and its children on one core, so that neither side borrows another."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1] if core is None else core
    if core not in cores:
        sys.exit(f"core {core} is not among {cores}")
    os.sched_setaffinity(0, {core})
    return core


def parse():
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parents[2] / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rissole", type=Path, default=target / "release" / "rissole-train", help="the binary")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each side")
    parser.add_argument("--steps", type=int, default=20, help="steps timed in a run")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, default=10)
    parser.add_argument("--widths", type=lambda text: [int(w) for w in text.split(",")], default=[64, 128])
    parser.add_argument("--residuals", type=int, default=2)
    parser.add_argument("--core", type=int, help="core to run on; the last one allowed")
    parser.add_argument("--json", action="store_true", help="print one JSON object, words on stderr")
    args = parser.parse_args()
    if min(args.repeats, args.steps) < 1:
        parser.error("repeats and steps must be at least 1")
    return args


def main():
    args = parse()
    core = pin(args.core)
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch_sides = {
        "PyTorch NCHW": Trainer(args, torch.contiguous_format),
        "PyTorch NHWC": Trainer(args, torch.channels_last),
    }
    sides = {"rissole": lambda: measure_rissole(args)}
    sides |= {name: (lambda trainer=trainer: trainer.measure(args.steps)) for name, trainer in torch_sides.items()}

    words = sys.stderr if args.json else sys.stdout
    print(f"PyTorch {torch.__version__}, core {core}, one thread, batch {args.batch}", file=words)
    runs = {name: [] for name in sides}
    for repeat in range(args.repeats):
        for name, measure in sides.items():
            runs[name].append(measure())
        counts = {name: r[-1]["parameters"] for name, r in runs.items()}
        if len(set(counts.values())) != 1:
            sys.exit(f"not the same network: {counts} parameters")
        # CPU time where both sides know it: on a busy machine wall time counts the others' work too.
        clock = "cpu" if runs["rissole"][0]["cpu"] is not None else "wall"
        line = "  ".join(f"{name} {r[-1][clock]:.4f}" for name, r in runs.items())
        print(f"run {repeat + 1}/{args.repeats}, {clock} seconds a step: {line}", file=words)

    medians = {name: statistics.median(run[clock] for run in r) for name, r in runs.items()}
    best = min(torch_sides, key=medians.get)
    ratio = medians["rissole"] / medians[best]
    if args.json:
        report = {"parameters": counts["rissole"], "clock": clock, "medians": medians, "best": best, "ratio": ratio}
        print(json.dumps(report | {"torch": torch.__version__, "runs": runs}))
    else:
        print(f"{counts['rissole']} parameters; median {clock} seconds a step:")
        for name, median in medians.items():
            spread = [run[clock] for run in runs[name]]
            print(f"  {name:13} {median:.4f}  (runs {min(spread):.4f}…{max(spread):.4f})")
        print(f"rissole takes {ratio:.2f} times as long as {best}, the faster of PyTorch's two")


if __name__ == "__main__":
    main()
