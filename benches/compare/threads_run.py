#!/usr/bin/env python3
"""Sampling by two threads beside one: how much sooner a picture is denoised, by the time of day, runs in turn.

--real-time runs rissole before all ordinary programs (SCHED_FIFO, needs the right to), for a machine that does other
work. The cores that a run does not take are then kept from others by loops that touch no memory. Without it, the best
of each tells most there.
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

ROOT = Path(__file__).resolve().parents[2]


def sampled(args, threads, folder):
    """Seconds of each stage of one picture."""
    command = [args.rissole.resolve(), "sample", "--model", args.model.resolve(), "--seed", 7, "--threads", threads]
    command += ["--json", "--out", folder / "a.png"] + (["--steps", args.steps] if args.steps else [])
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    if args.real_time:
        more["preexec_fn"] = lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    spare = len(os.sched_getaffinity(0)) - threads if args.real_time else 0
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"], **more) for _ in range(spare)]
    try:
        done = subprocess.run([str(word) for word in command], check=True, **more)
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()
    report = json.loads(done.stdout)["pictures"][0]["report"]
    assert report["threads"] == threads
    return report["times"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rissole", type=Path, help="the program, built in release")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "avatars64", help="the bundle")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, help="the bundle's, if not told")
    parser.add_argument("--real-time", action="store_true")
    args = parser.parse_args()
    times = {1: [], args.threads: []}
    print(f"load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.pairs):
            for threads, runs in times.items():
                runs.append(sampled(args, threads, Path(folder)))
                time.sleep(0.3)  # what others missed meanwhile
    for stage in ("denoise", "decode"):
        by = {threads: [run[stage] * 1e3 for run in runs] for threads, runs in times.items()}
        for threads, spent in by.items():
            print(f"{stage}, {threads} threads: best {min(spent):.1f} ms, median {statistics.median(spent):.1f} ms")
        pairs = [one / more for one, more in zip(by[1], by[args.threads])]
        print(f"{stage}: best of each {min(by[1]) / min(by[args.threads]):.2f}×, medians "
              f"{statistics.median(by[1]) / statistics.median(by[args.threads]):.2f}×, median of pairs "
              f"{statistics.median(pairs):.2f}× ({min(pairs):.2f}…{max(pairs):.2f})")


if __name__ == "__main__":
    main()
