#!/usr/bin/env python3
"""Checks that each folder of src/ includes only the folders it may, and that tests and code keep to src/-rooted includes.

The table is the one in ARCHITECTURE.md; this file is its executable form. Exit code 1 and one line per offence.
"""
import pathlib
import re
import sys

MAY_INCLUDE = {
    "base": "",
    "device": "base",
    "tensor": "device base",
    "kernels": "tensor device base",
    "ops": "kernels comm tensor device base",
    "replay": "ops kernels tensor device base",
    "comm": "kernels tensor device base",
    "model": "ops comm kernels tensor device base",
    "engine": "model ops comm kernels tensor device base",
    "train": "model ops comm kernels tensor device base",
    "server": "engine model base",
    "rl": "train engine replay model ops comm kernels tensor device base",
    "cli": "server rl train engine replay model ops comm kernels tensor device base",
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
CUDA_RUNTIME = re.compile(r"^(cuda|cuda_runtime|cuda_runtime_api|cudart_platform)\.h$")


def offences(root):
    source = pathlib.Path(root) / "src"
    found = []
    for path in sorted(source.rglob("*")):
        if path.suffix not in {".h", ".cc", ".cu", ".cuh"}:
            continue
        folder = path.relative_to(source).parts[0]
        allowed = set(MAY_INCLUDE.get(folder, "").split()) | {folder}
        if folder not in MAY_INCLUDE:
            found.append(f"{path}: src/{folder} is not a folder of the table")
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quote, target = match.groups()
            where = f"{path.relative_to(root)}:{number}"
            first = target.split("/")[0]
            if quote == '"' and not (source / target).is_file():
                found.append(f"{where}: \"{target}\" is not a path from src/")
            elif quote == '"' and first not in allowed:
                found.append(f"{where}: {folder} may not include {first}")
            elif path.suffix == ".h" and CUDA_RUNTIME.match(target):
                found.append(f"{where}: a .h must compile without nvcc; put {target} in a .cu or .cuh")
            elif CUDA_RUNTIME.match(target) and folder != "device" and path.suffix != ".cu" and path.suffix != ".cuh":
                found.append(f"{where}: only device/ and kernels call the CUDA runtime")
    return found


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    found = offences(root)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
