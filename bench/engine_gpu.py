#!/usr/bin/env python3
"""The engine on a GPU: the rows of docs/performance.md, each a run of `tandem bench`, on checkpoints of random weights that
are made first and kept.

    bench/engine_gpu.py [--tandem PROGRAM] [--device cuda] [--folder /tmp/tandem-bench] [--only TEXT] [--json FILE]
                        [--smoke]

--only: rows whose name has the text. --json: what bench printed, a line each. --smoke: small shapes and short answers, which
the CPU does too (--device cpu). Times in ms, p50 / p99; a row that fails is named, and the exit code says so.
"""

import argparse
import json
import pathlib
import subprocess
import sys

# Name; shape; its layers, or 0 for all; prompt, output; batches; repeats; further flags of bench.
WIDE = ("--step-tokens", "4096")
ROWS = [
    ("8B one stream", "llama-3-8b", 0, 128, 128, "1", 3, ()),
    ("1B one stream", "llama-3.2-1b", 0, 128, 128, "1", 3, ()),
    ("8B streams", "llama-3-8b", 0, 128, 128, "2,4,8,16,64,256", 1, WIDE),
    ("1B streams", "llama-3.2-1b", 0, 128, 128, "2,4,16,64,256", 1, WIDE),
    ("8B prefill", "llama-3-8b", 0, 4096, 8, "1", 3, WIDE),
    ("8B 256 in flight", "llama-3-8b", 0, 1000, 1000, "256", 1, (*WIDE, "--context", "2048")),
    ("8B FP8 cache", "llama-3-8b", 0, 128, 128, "64", 1, (*WIDE, "--kv-dtype", "fp8")),
    ("qwen3-30b-a3b, 8 layers", "qwen3-30b-a3b", 8, 128, 64, "1,4,16,64", 1, WIDE),
]
SMOKE = [
    ("tiny", "tiny", 0, 16, 8, "1,3", 1, ()),
    ("tiny experts", "tiny-moe", 3, 16, 8, "1,3", 1, ("--step-tokens", "64")),
]
COLUMNS = f"{'':26} {'batch':>5} {'in':>5} {'out':>5} | {'first token':>19} | {'between tokens':>19} | " + (
    f"{'decode t/s':>10} {'of read':>7} | {'prefill t/s':>11} {'of peak':>7} | {'all t/s':>8} | idle us")


def checkpoint(options, shape, layers):
    folder = options.folder / (f"{shape}-{layers}" if layers else shape)
    if not (folder / "config.json").exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        flags = ["--layers", str(layers)] if layers else []
        subprocess.run([options.tandem, "make-checkpoint", "--shape", shape, *flags, str(folder)], check=True,
                       stdout=subprocess.DEVNULL)
    return folder


def line_of(name, row):
    def pair(key):
        return f"{1e3 * row[key + '_s_p50']:8.3f} /{1e3 * row[key + '_s_p99']:9.3f}"

    idle = f"{row['device_idle_us_p50']:.1f} / {row['device_idle_us_p99']:.1f}" if "device_idle_us_p50" in row else "-"
    return (f"{name:26} {row['batch']:5} {row['prompt_tokens']:5} {row['output_tokens']:5} | {pair('first_token'):>19} | "
            f"{pair('between_tokens'):>19} | {row['decode_tokens_per_s']:10.1f} {row['decode_of_read']:7.1%} | "
            f"{row['prefill_tokens_per_s']:11.0f} {row['prefill_of_peak']:7.1%} | {row['output_tokens_per_s']:8.0f} | {idle}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", default="build/release/src/cli/tandem")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("/tmp/tandem-bench"))
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    failed = []
    print(COLUMNS, flush=True)
    for name, shape, layers, prompt, output, batches, repeats, flags in SMOKE if options.smoke else ROWS:
        if options.only not in name:
            continue
        command = [options.tandem, "bench", "--json", "--device", options.device, "--model",
                   str(checkpoint(options, shape, layers)), "--prompt-tokens", str(prompt), "--output-tokens", str(output),
                   "--batch", batches, "--repeats", str(repeats), *flags]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in run.stdout:  # as they come: a run that is cut off has shown what it had
            print(line_of(name, json.loads(line)), flush=True)
            if options.json:
                with options.json.open("a") as file:
                    file.write(line)
        error = run.stderr.read()
        if run.wait() != 0:
            failed.append(name)
            print(f"{name}: exit code {run.returncode}: {error.strip().splitlines()[-1] if error.strip() else ''}", flush=True)
    print(f"{len(failed)} rows failed: {', '.join(failed)}" if failed else "all rows ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
