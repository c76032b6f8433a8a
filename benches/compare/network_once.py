#!/usr/bin/env python3
"""One network by one engine in a process that does nothing else, loaded and run twice: time from the start of loading
to the end of the first run, memory by which the process grows after the engine is imported, and the output, as JSON.

  network_once.py ENGINE FILE INPUTS.npz
"""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np

from network_engines import LOADERS


def status(name):
    """A figure of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def main():
    engine, path, inputs = sys.argv[1:]
    inputs = dict(np.load(inputs))
    importlib.import_module(engine)
    # From here on, the peak of what is resident counts anew.
    Path("/proc/self/clear_refs").write_text("5")
    resident, anonymous = status("VmRSS:"), status("RssAnon:")
    started = time.perf_counter()
    run = LOADERS[engine](path, inputs)
    output = np.asarray(run())
    first_ms = (time.perf_counter() - started) * 1e3
    run()
    grown = {"resident": status("VmHWM:") - resident, "anonymous": status("RssAnon:") - anonymous}
    print(json.dumps({"first_ms": first_ms} | grown | {"output": output.ravel().tolist()}))


if __name__ == "__main__":
    main()
