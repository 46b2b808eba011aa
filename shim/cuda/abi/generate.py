#!/usr/bin/env python3
"""Writes functions.txt: every function of the CUDA driver's interface, from NVIDIA's own headers.

    ./generate.py                     # fetches the headers from PyPI (wheel nvidia-cuda-runtime)
    ./generate.py --include DIR       # uses headers that are already there

Needs a C compiler and pip. What is kept are facts (names, versions, parameter sizes), never header
text. The table is what ../build.rs works from; look there for how each column is used.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

RUNTIME_WHEEL = "nvidia-cuda-runtime==13.0.96"
OUTPUT = pathlib.Path(__file__).with_name("functions.txt")

# Interop headers need headers of other systems (and the profiler's, which travels in another
# package): empty ones are put in their place, and these types are all that is used from them.
FOREIGN_HEADERS = ["GL/gl.h", "EGL/egl.h", "EGL/eglext.h", "vdpau/vdpau.h", "cudaProfiler.h"]
FOREIGN_TYPES = """
typedef unsigned int GLuint, GLenum, VdpDevice, VdpVideoSurface, VdpOutputSurface;
typedef int EGLint, VdpGetProcAddress(void);
typedef void *EGLImageKHR, *EGLStreamKHR, *EGLSyncKHR;
typedef enum { CU_OUT_KEY_VALUE_PAIR } CUoutput_mode;
"""
DECLARING = ["cuda.h", "cudaGL.h", "cudaEGL.h", "cudaVDPAU.h"]
TYPEDEFS = ["cudaTypedefs.h", "cudaGLTypedefs.h", "cudaEGLTypedefs.h", "cudaVDPAUTypedefs.h",
            "cudaProfilerTypedefs.h"]

# In the headers, but in no driver for this kind of machine.
ELSEWHERE = {"cuWGLGetDevice": "Windows", "cuEventCreateFromEGLSync": "Tegra"}


def fetch_headers(into):
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                    "--platform", "manylinux2014_x86_64", "-d", into, RUNTIME_WHEEL], check=True)
    wheel = next(pathlib.Path(into).glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    return next(pathlib.Path(into).rglob("cuda.h")).parent


def compiler(arguments, text, stubs, include):
    command = ["cc", *arguments, "-D__CUDA_API_VERSION_INTERNAL", f"-I{include}", f"-I{stubs}", "-xc", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def split_parameters(text):
    """Cuts a parameter list at its top-level commas; the last word of a part is the name."""
    if text.strip() in ("", "void"):
        return []
    types = []
    for part in text.split(","):
        part = part.strip()
        if part.endswith("]"):  # an array parameter is a pointer
            types.append("void *")
            continue
        types.append(re.sub(r"\w+$", "", part).strip())
    return types


def suffix_rank(symbol):
    found = re.search(r"_v(\d)(_pt[sd][sz])?$", symbol)
    return int(found[1]) if found else 1


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--include", help="folder of cuda.h")
    include = options.parse_args().include
    with tempfile.TemporaryDirectory() as scratch:
        stubs = pathlib.Path(scratch, "stubs")
        for name in FOREIGN_HEADERS:
            path = stubs / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        include = pathlib.Path(include) if include else fetch_headers(scratch)
        write(include, stubs)


def write(include, stubs):
    declaring = FOREIGN_TYPES + "".join(f"#include <{name}>\n" for name in DECLARING)
    typedefs = FOREIGN_TYPES + "".join(f"#include <{name}>\n" for name in ["cudaGL.h", "cudaEGL.h", "cudaVDPAU.h"] + TYPEDEFS)
    symbols = set(re.findall(r"CUresult\s+(cu[A-Z]\w+)\s*\(",
                             compiler(["-E", "-P"], declaring, stubs, include)))
    pointers = {}
    text = " ".join(compiler(["-E", "-P"], typedefs, stubs, include).split())
    pattern = r"typedef CUresult ?\( ?\*PFN_(cu\w+?)_v(\d{4,5})(_ptsz|_ptds)? ?\)\((.*?)\);"
    for base, version, variant, parameters in re.findall(pattern, text):
        pointers.setdefault((base, variant), {})[int(version)] = split_parameters(parameters)

    named = {}
    for symbol in symbols:
        base = re.sub(r"(_v\d)?(_ptsz|_ptds)?$", "", symbol)
        variant = re.search(r"(_ptsz|_ptds)?$", symbol)[0]
        named.setdefault((base, variant), []).append(symbol)
    rows = []
    for key in sorted(pointers):
        base, variant = key
        versions = sorted(pointers[key])
        if base in ELSEWHERE:
            continue
        names = sorted(named.get(key, []), key=suffix_rank)
        if not names and base.startswith("cuProfiler"):
            names = [base]
        if len(names) != len(versions):
            sys.exit(f"{base}{variant}: versions {versions} but symbols {names}")
        for symbol, version in zip(names, versions):
            rows.append((symbol, base, version, variant.lstrip("_") or "-", pointers[key][version]))
    missing = symbols - {row[0] for row in rows} - set(ELSEWHERE)
    if missing:
        sys.exit(f"no function type for {sorted(missing)}")

    sizes = measure({kind for row in rows for kind in row[4]}, typedefs, stubs, include)
    lines = [f"{symbol} {base} {version} {variant} {','.join(sizes[kind] for kind in parameters) or '-'}\n"
             for symbol, base, version, variant, parameters in sorted(rows)]
    OUTPUT.write_text(HEAD + "".join(lines))
    print(f"{OUTPUT.name}: {len({row[0] for row in rows})} symbols, {len({row[1] for row in rows})} names")


def measure(kinds, typedefs, stubs, include):
    """The size of each parameter type as the compiler sees it; S for a stream, f for a float."""
    kinds = sorted(kinds)
    text = typedefs + "#include <stdio.h>\nint main(void) {\n" + "".join(
        f'printf("%zu\\n", sizeof({kind}));\n' for kind in kinds) + "}\n"
    program = stubs / "measure"
    compiler(["-w", "-o", str(program)], text, stubs, include)
    sizes = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    special = {"CUstream": "S", "float": "f"}
    return {kind: special.get(kind, size) for kind, size in zip(kinds, sizes)}


HEAD = """\
# Every function of the CUDA 13.0 driver interface. Written by generate.py; do not edit.
# symbol, name that cuGetProcAddress knows it by, first CUDA version, per-thread variant (or -),
# size in bytes of each parameter (S: a stream handle, f: a float, -: no parameters).
"""

if __name__ == "__main__":
    main()
