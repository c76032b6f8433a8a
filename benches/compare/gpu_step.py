#!/usr/bin/env python3
"""Training steps on one GPU: `rissole-train bench-step` beside PyTorch's variants, in one run.

    cargo build --release -p rissole-train
    python benches/compare/gpu_step.py --network unet --batch 256
    python benches/compare/gpu_step.py --network vqgan --batch 64

Both sides train the same network in bf16 with float weights (the script stops if their parameters differ in number):
forward, losses, backward, clipping of the gradient's norm, AdamW, moving average of the weights. Ours is timed with each way
of doing convolutions (`--convolutions`), by cuDNN where it is there. PyTorch's are autocast with
channels last, eager; compiled; compiled with CUDA graphs; and the whole step captured by hand as one CUDA graph. Each runs in
a process of its own, one after the other, `--repeats` times. Reported are milliseconds a step (median of the runs' medians)
and the most memory that was allocated; then the profile of rissole's fastest by kernel beside what the GPU can do.

`--device cpu` checks that everything runs; its times mean nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from unet_step import BLOCK, NEIGHBOURS, POSITIONS, Denoiser, conv

CONVOLUTIONS = ["direct", "patches", "cudnn"]
VARIANTS = ["eager", "compiled", "compiled-graphs", "graph"]
WARM_UP = 5  # steps that are not timed, compilation apart
STEPS_TOGETHER = 10  # steps that a GPU is given before it is waited for


class Residual(nn.Module):
    """SiLU, conv, SiLU, conv, skip: `PlainResidual` of tools/src/model/layers.rs."""

    def __init__(self, channels):
        super().__init__()
        self.conv_in, self.conv_out = conv(channels, channels), conv(channels, channels)

    def forward(self, x):
        return x + self.conv_out(F.silu(self.conv_in(F.silu(x))))


class Vqgan(nn.Module):
    """The VQ-GAN of avatars64.toml: tools/src/model/vqgan.rs; the codebook moves by averages (train/vqgan.rs)."""

    LATENT, WIDTHS, RESIDUALS, CODES = 8, [48, 96], [1, 2], 2048
    DECAY, DEAD = 0.99, 0.05

    def __init__(self):
        super().__init__()
        encoder, inputs = [], 3
        for width, residuals in zip(self.WIDTHS, self.RESIDUALS):
            encoder += [conv(inputs, width, stride=2), *(Residual(width) for _ in range(residuals))]
            inputs = width
        self.encoder = nn.Sequential(*encoder, nn.SiLU(), conv(inputs, self.LATENT))
        decoder = [conv(self.LATENT, self.WIDTHS[-1])]
        for i in reversed(range(len(self.WIDTHS))):
            decoder += [Residual(self.WIDTHS[i]) for _ in range(self.RESIDUALS[i])]
            if i > 0:
                decoder += [nn.SiLU(), nn.Upsample(scale_factor=2), conv(self.WIDTHS[i], self.WIDTHS[i - 1])]
        self.decoder = nn.Sequential(*decoder, nn.SiLU(), conv(self.WIDTHS[0], 12), nn.PixelShuffle(2))
        entries = torch.randn(self.CODES, self.LATENT)
        for name, value in [("entries", entries), ("uses", torch.ones(self.CODES)), ("sums", entries.clone())]:
            self.register_buffer(name, value)

    def quantize(self, latent):
        rows = latent.float().permute(0, 2, 3, 1).reshape(-1, self.LATENT)
        with torch.no_grad():
            codes = torch.addmm(0.5 * self.entries.square().sum(1), rows, self.entries.t(), alpha=-1.0).argmin(1)
            nearest = self.entries[codes]
            uses = torch.zeros_like(self.uses).index_add_(0, codes, torch.ones_like(codes, dtype=torch.float32))
            sums = torch.zeros_like(self.sums).index_add_(0, codes, rows)
            self.uses.lerp_(uses, 1 - self.DECAY)
            self.sums.lerp_(sums, 1 - self.DECAY)
            dead = self.uses < self.DEAD
            chosen = rows[torch.randint(rows.shape[0], (self.CODES,), device=rows.device)]
            self.uses.copy_(torch.where(dead, 1.0, self.uses))
            self.sums.copy_(torch.where(dead[:, None], chosen, self.sums))
            self.entries.copy_(self.sums / self.uses[:, None])
        commitment = F.mse_loss(rows, nearest)
        n, c, h, w = latent.shape
        nearest = nearest.view(n, h, w, c).permute(0, 3, 1, 2)
        return latent + (nearest - latent).detach(), commitment

    def forward(self, images):
        latent, commitment = self.quantize(self.encoder(images))
        return self.decoder(latent), commitment


class Side:
    """One variant of PyTorch."""

    def __init__(self, args):
        torch.manual_seed(1)
        self.args, self.device = args, torch.device(args.device)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        network = Denoiser(args.channels, args.widths, args.residuals) if args.network == "unet" else Vqgan()
        self.model = network.to(self.device).to(memory_format=torch.channels_last)
        self.parameters = list(self.model.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=2e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=fused, capturable=fused
        )
        self.loss_of = self.unet_loss if args.network == "unet" else self.vqgan_loss
        if args.variant.startswith("compiled"):
            mode = "reduce-overhead" if args.variant == "compiled-graphs" else None
            self.loss_of = torch.compile(self.loss_of, mode=mode)
        self.inputs = self.unet_batch() if args.network == "unet" else self.vqgan_batch()

    def unet_batch(self):
        """Made once: rissole's are made on the device within the step."""
        n, c = self.args.batch, self.args.channels

        def block(channels):
            made = torch.randn(n, channels, BLOCK, BLOCK, device=self.device)
            return made.to(memory_format=torch.channels_last)

        position = F.one_hot(torch.randint(POSITIONS, (n,), device=self.device), POSITIONS).float()
        timestep = torch.randint(1000, (n, 1), device=self.device).float()
        return block(c), timestep, position, block(NEIGHBOURS * c), block(c)

    def unet_loss(self, noisy, timestep, position, neighbours, target):
        with torch.autocast(self.device.type, torch.bfloat16):
            predicted = self.model(noisy, timestep, position, neighbours)
        return F.mse_loss(predicted.float(), target)

    def vqgan_batch(self):
        shape = (self.args.batch, 3, self.args.pixels, self.args.pixels)
        return (torch.randn(shape, device=self.device).to(memory_format=torch.channels_last),)

    def vqgan_loss(self, images):
        with torch.autocast(self.device.type, torch.bfloat16):
            decoded, commitment = self.model(images)
        decoded = decoded.float()
        return F.l1_loss(decoded, images) + F.mse_loss(decoded, images) + 0.25 * commitment

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(*self.inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 0.001)
        return loss.detach()

    def captured(self):
        """The step as one CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.step()

        def replay():
            graph.replay()
            return loss

        return replay

    def measure(self):
        step = self.captured() if self.args.variant == "graph" else self.step
        for _ in range(WARM_UP):
            step().item()
        cuda = self.device.type == "cuda"
        seconds, together = [], STEPS_TOGETHER if cuda else 1
        for _ in range(0, self.args.steps, together):
            start = time.perf_counter()
            losses = [step().clone() for _ in range(together)]
            torch.stack(losses).tolist()  # waits, as rissole does, only now
            seconds.append((time.perf_counter() - start) / together)
        return {
            "seconds": statistics.median(seconds),
            "bytes": torch.cuda.max_memory_allocated() if cuda else None,
            "parameters": sum(p.numel() for p in self.parameters),
        }


def output(command):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def measure_torch(args, variant):
    """A variant in a process of its own; none where it fails, with its words on stderr."""
    return output([sys.executable, __file__, *sys.argv[1:], "--variant", variant])


def measure_rissole(args, convolutions, profile=False):
    """One way of doing convolutions; none where it fails, with its words on stderr."""
    device = "cuda:0" if args.device == "cuda" else args.device
    command = [args.rissole, "--device", device, "--precision", "bf16", "--convolutions", convolutions, "bench-step"]
    command += ["--network", args.network]
    command += ["--batch", args.batch, "--steps", args.steps, "--channels", args.channels, "--pixels", args.pixels]
    command += ["--widths", ",".join(map(str, args.widths)), "--residuals", args.residuals]
    report = output(command + ["--profile"] * profile)
    names = {"seconds": "seconds_per_step", "bytes": "device_bytes", "parameters": "parameters"}
    return report and {name: report[of] for name, of in names.items()}


def parse():
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parents[2] / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rissole", type=Path, default=target / "release" / "rissole-train", help="the binary")
    parser.add_argument("--network", choices=["unet", "vqgan"], default="unet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256, help="blocks, or pictures")
    parser.add_argument("--channels", type=int, default=10, help="U-Net: channels of a latent cell")
    parser.add_argument("--widths", type=lambda text: [int(w) for w in text.split(",")], default=[64, 128])
    parser.add_argument("--residuals", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=64, help="VQ-GAN: side of a picture")
    parser.add_argument("--steps", type=int, default=50, help="steps timed in a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--convolutions", type=lambda text: text.split(","), default=CONVOLUTIONS, help="rissole's ways")
    parser.add_argument("--variants", type=lambda text: text.split(","), default=VARIANTS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print one JSON object, words on stderr")
    return parser.parse_args()


def main():
    args = parse()
    if args.variant:
        print(json.dumps(Side(args).measure()))
        return
    words = sys.stderr if args.json else sys.stdout
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    print(f"{name}, PyTorch {torch.__version__}, {args.network}, batch {args.batch}, bf16", file=words)
    ways = {f"rissole {way}": way for way in args.convolutions}
    runs = {side: [] for side in [*ways, *args.variants]}
    for _ in range(args.repeats):
        for side in runs:
            runs[side].append(measure_rissole(args, ways[side]) if side in ways else measure_torch(args, side))
    runs = {side: found for side, found in runs.items() if all(found)}
    if not any(side in ways for side in runs):
        sys.exit("rissole-train failed; built? cargo build --release -p rissole-train")
    if len({run["parameters"] for found in runs.values() for run in found}) != 1:
        sys.exit(f"not the same network: {runs}")
    medians = {side: statistics.median(run["seconds"] for run in found) for side, found in runs.items()}
    for side, found in runs.items():
        spread = [1e3 * run["seconds"] for run in found]
        memory = f"{found[0]['bytes'] / 2**20:8.0f} MiB" if found[0]["bytes"] else ""
        print(f"  {side:16} {1e3 * medians[side]:9.3f} ms ({min(spread):.3f}…{max(spread):.3f}) {memory}", file=words)
    ours = min((side for side in medians if side in ways), key=medians.get)
    best = min((side for side in medians if side not in ways), key=medians.get, default=None)
    if best:
        ratio = medians[best] / medians[ours]
        print(f"{ours} does {ratio:.2f} times as many steps a second as PyTorch's best ({best})", file=words)
    if args.device == "cuda":
        measure_rissole(args, ways[ours], profile=True)
    if args.json:
        print(json.dumps({"medians": medians, "best": best, "torch": torch.__version__, "device": name, "runs": runs}))


if __name__ == "__main__":
    main()
