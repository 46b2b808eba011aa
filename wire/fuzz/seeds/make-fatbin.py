#!/usr/bin/env python3
"""Makes the seeds of the `fatbin` target from the kernels below.

    pip install nvidia-cuda-nvrtc nvidia-cuda-nvcc      # CUDA 13; no GPU is needed
    make-fatbin.py LIBNVRTC FATBINARY OUTPUT_FOLDER     # LD_LIBRARY_PATH: the folder of LIBNVRTC
"""

import ctypes
import pathlib
import subprocess
import sys

KERNELS = {
    "add": 'extern "C" __global__ void add(const float* a, const float* b, float* c, int n)'
    "{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) c[i] = a[i] + b[i]; }",
    "print": 'extern "C" __global__ void print(int n) { printf("n is %d\\n", n); }',
    "assert": 'extern "C" __device__ void __assertfail(const char*, const char*, unsigned, const char*, size_t);'
    'extern "C" __global__ void check(int n) { if (n < 1) __assertfail("n > 0", "seed.cu", 1, "check", 1); }',
}


def compile(nvrtc, source, arch, what):
    program = ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"seed.cu", 0, None, None):
        raise SystemExit("nvrtcCreateProgram failed")
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={arch}".encode())
    if nvrtc.nvrtcCompileProgram(program, 1, options):
        raise SystemExit(f"{arch}: does not compile")
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    result = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, result)
    return result.raw[: size.value]


def main():
    nvrtc, fatbinary, output = ctypes.CDLL(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    for name, source in KERNELS.items():
        (output / f"{name}.sm_90.cubin").write_bytes(compile(nvrtc, source, "sm_90", "CUBIN"))
        (output / f"{name}.ptx").write_bytes(compile(nvrtc, source, "compute_80", "PTX"))
    for arch in ("sm_80", "sm_90a", "sm_100f"):
        (output / f"add.{arch}.cubin").write_bytes(compile(nvrtc, KERNELS["add"], arch, "CUBIN"))

    def pack(name, options, images):
        specs = [f"--image3=kind={kind},sm={sm},file={output / file}" for kind, sm, file in images]
        subprocess.run([fatbinary, "--64", f"--create={output / name}", *options, *specs], check=True)

    add = [("elf", "80", "add.sm_80.cubin"), ("elf", "90", "add.sm_90.cubin"), ("ptx", "80", "add.ptx")]
    variants = [("elf", "90a", "add.sm_90a.cubin"), ("elf", "100f", "add.sm_100f.cubin")]
    pack("add.plain.fatbin", ["--compress=false"], add)
    pack("add.zstd.fatbin", ["--compress-all"], add + variants)
    pack("add.lz4.fatbin", ["--compress-all", "--compress-mode=speed"], add)
    pack("variants.plain.fatbin", ["--compress=false"], variants)
    pack("print.zstd.fatbin", ["--compress-all"], [("elf", "90", "print.sm_90.cubin")])
    pack("assert.lz4.fatbin", ["--compress-all", "--compress-mode=speed"], [("ptx", "80", "assert.ptx")])


main()
