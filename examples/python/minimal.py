"""Draws one picture into a numpy array through the shared library: minimal.py LIBRISSOLE.so MODEL_DIR OUT.ppm [SEED]"""

import ctypes
import sys
from ctypes import POINTER, c_char, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

import numpy as np


class Error(ctypes.Structure):
    _fields_ = [("status", c_int), ("reserved", c_uint32), ("needs", c_uint64), ("message", c_char * 504)]


class ModelInfo(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32)] + [
        (name, c_uint32)
        for name in "width height block_rows block_cols thumbnail neighbours max_steps steps sampler has_encoder "
        "latent_values latent_channels latent_height latent_width".split()
    ]


class Request(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("query", c_uint32),
        ("seed", c_uint64),
        ("id", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("reserved", c_uint32),
        ("stride", c_uint64),
        ("pixels", c_void_p),
    ]


class Image(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("format", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("stride", c_uint64),
        ("bytes", c_uint64),
        ("pixels", c_void_p),
    ]


class Library:
    """The functions that this example needs, each failing with a RuntimeError."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        for name, arguments in {
            "rissole_model_open": [c_char_p, POINTER(c_void_p)],
            "rissole_model_get_info": [c_void_p, POINTER(ModelInfo)],
            "rissole_generator_open": [c_void_p, c_void_p, POINTER(c_void_p)],
            "rissole_generate": [c_void_p, POINTER(Request), POINTER(Image), c_void_p],
        }.items():
            getattr(self.lib, name).argtypes = arguments + [POINTER(Error)]
        for name in "rissole_model_close", "rissole_generator_close":
            getattr(self.lib, name).argtypes = [c_void_p]
            getattr(self.lib, name).restype = None
        for name, struct in ("request", Request), ("image", Image), ("model_info", ModelInfo):
            getattr(self.lib, f"rissole_{name}_init").argtypes = [POINTER(struct), c_size_t]
            getattr(self.lib, f"rissole_{name}_init").restype = None

    def __call__(self, function, *arguments):
        error = Error()
        if getattr(self.lib, function)(*arguments, error) != 0:
            raise RuntimeError(error.message.decode())

    def usual(self, name, struct):
        """The struct that rissole_NAME_init fills in."""
        value = struct()
        getattr(self.lib, f"rissole_{name}_init")(value, ctypes.sizeof(struct))
        return value


def draw(library, folder, seed):
    """The picture of `seed` from the bundle in `folder`, height × width × 3, uint8."""
    model, generator = c_void_p(), c_void_p()
    try:
        library("rissole_model_open", folder.encode(), model)
        info = library.usual("model_info", ModelInfo)
        library("rissole_model_get_info", model, info)
        library("rissole_generator_open", model, None, generator)
        pixels = np.empty((info.height, info.width, 3), np.uint8)
        image = library.usual("image", Image)
        image.pixels, image.bytes = pixels.ctypes.data, pixels.nbytes
        request = library.usual("request", Request)
        request.seed = seed
        library("rissole_generate", generator, request, image, None)
        return pixels
    finally:
        library.lib.rissole_generator_close(generator)
        library.lib.rissole_model_close(model)


def main():
    if len(sys.argv) < 4:
        sys.exit(f"usage: {__doc__}")
    library, folder, out, seed = sys.argv[1], sys.argv[2], sys.argv[3], int((sys.argv[4:] or [1])[0])
    try:
        pixels = draw(Library(library), folder, seed)
    except RuntimeError as error:
        sys.exit(str(error))
    with open(out, "wb") as file:
        file.write(b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes())


if __name__ == "__main__":
    main()
