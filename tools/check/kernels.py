#!/usr/bin/env python3
"""Compiles the trainer's CUDA kernels to PTX and CUBIN, with neither GPU nor driver.

    python3 -m venv .venv && .venv/bin/pip install -r tools/check/kernels.txt
    .venv/bin/python tools/check/kernels.py

Every architecture of ARCHITECTURES must compile without an error or a warning, as the trainer compiles it: the
files in the order of `program.rs`, one program, with activations as floats and in bf16. Prints the registers, shared memory and spills that each kernel
takes where `--usage` is given.

Exit code 0: all compile; 1: some do not; 2: NVRTC is missing.
"""

import argparse
import ctypes
import itertools
import pathlib
import re
import sys

ARCHITECTURES = ["sm_80", "sm_87", "sm_90"]
# What `program.rs` puts in front of the files.
ACTIVATIONS = {"float": "", "bf16": "#define BF16_ACTIVATIONS\n"}
BF16_ALONE = ["tensor.cu", "direct.cu", "tensor_attention.cu"]
BACKEND = pathlib.Path(__file__).parent.parent / "src/backend/cuda"


def find_nvrtc():
    """The library of the installed wheel, CUDA 13 before 12; otherwise the loader's own."""
    patterns = ["nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.1[23]"]
    for site in map(pathlib.Path, sys.path):
        for pattern in patterns:
            for path in site.glob(pattern):
                # NVRTC asks for these by name alone, which finds them once they are loaded.
                for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
                return ctypes.CDLL(str(path)), str(path)
    for name in ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]:
        try:
            return ctypes.CDLL(name), name
        except OSError:
            pass
    return None, None


def program(bf16):
    """The source as `program.rs` joins it."""
    names = re.findall(r'include_str!\("kernels/(\w+\.cu)"\)', (BACKEND / "program.rs").read_text())
    files = sorted(path.name for path in (BACKEND / "kernels").glob("*.cu"))
    if sorted(names) != files:
        sys.exit(f"program.rs names {sorted(names)}, the folder has {files}")
    names = [name for name in names if bf16 or name not in BF16_ALONE]
    return "".join(f'#line 1 "{name}"\n{(BACKEND / "kernels" / name).read_text()}' for name in names)


class Nvrtc:
    """The few calls of NVRTC that compiling takes."""

    def __init__(self, library):
        self.library = library

    def call(self, function, *args):
        code = getattr(self.library, function)(*args)
        if code and function != "nvrtcCompileProgram":
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"{function}: {self.library.nvrtcGetErrorString(code).decode()}")
        return code

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def output(self, handle, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", handle, buffer)
        return buffer.raw

    def compile(self, source, options):
        """Whether it compiled, the log, PTX and CUBIN."""
        handle = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(handle), source.encode(), b"rissole.cu", 0, None, None)
        try:
            array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self.call("nvrtcCompileProgram", handle, len(options), array)
            log = self.output(handle, "ProgramLog").rstrip(b"\0").decode().strip()
            if failed:
                return False, log, b"", b""
            return True, log, self.output(handle, "PTX"), self.output(handle, "CUBIN")
        finally:
            self.call("nvrtcDestroyProgram", ctypes.byref(handle))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--usage", action="store_true", help="print what each kernel takes")
    arguments = parser.parse_args()
    library, path = find_nvrtc()
    if library is None:
        print("no NVRTC: pip install -r tools/check/kernels.txt", file=sys.stderr)
        sys.exit(2)
    nvrtc = Nvrtc(library)
    print(f"NVRTC {nvrtc.version()} ({path})")
    good = True
    for arch, (activations, define) in itertools.product(ARCHITECTURES, ACTIVATIONS.items()):
        source = program(bool(define))
        kernels = re.findall(r'extern "C" __global__ void (\w+)\(', source)
        options = [f"--gpu-architecture={arch}", "--std=c++17"]
        built, log, ptx, cubin = nvrtc.compile(define + source, options)
        missing = [k for k in kernels if f".entry {k}(".encode() not in ptx or k.encode() not in cubin]
        if built and not log and not missing:
            print(f"{arch}, activations {activations}: ok, {len(kernels)} kernels, PTX {len(ptx)} bytes, CUBIN {len(cubin)} bytes")
        else:
            good = False
            print(f"{arch}, activations {activations}: FAILED\n{log}" + (f"\nmissing: {', '.join(missing)}" if built else ""))
        if arguments.usage and built:
            print(nvrtc.compile(define + source, options + ["--ptxas-options=-v"])[1])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
