#!/usr/bin/env python3
"""Linear layers of many rows beside cuBLAS (through torch), on one GPU.

    python3 bench/micro/linear_cuda_many.py [--bench build/release/bench/bench_linear_cuda_many] [--only NAME[,T]]

For each shape: Tandem's kernel (the C++ benchmark), torch.matmul with bf16 results and nothing after it, and torch with
what Tandem's kernel does besides (residual in f32, activation, f32 results) as separate kernels. Tandem and torch are
measured in turns; both overwrite the L2 cache before each call and take the median.
"""

import argparse
import json
import statistics
import subprocess

import torch
import torch.nn.functional as F

PEAK_TFLOPS = 989.4  # dense bf16 of an H100 or H200 SXM


def median_us(call, flush, repeats):
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for _ in range(max(3, repeats // 4)):
        flush.fill_(1)
        call()
    for begin, end in events:
        flush.fill_(2)
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) * 1e3 for begin, end in events)


def peers(case):
    """The product alone in bf16, and the same layer from separate kernels."""
    T, K, N = case["T"], case["K"], case["N"]
    x = torch.rand(T, K, device="cuda").mul_(2).sub_(1).bfloat16()
    weight = torch.empty(N * (2 if case["gated"] else 1), K, device="cuda", dtype=torch.bfloat16).uniform_(-1, 1)
    out = torch.empty(T, weight.shape[0], device="cuda", dtype=torch.bfloat16)

    def product():
        torch.matmul(x, weight.t(), out=out)

    if case["gated"]:

        def layer():
            pair = torch.matmul(x, weight.t())
            return F.silu(pair[:, :N]) * pair[:, N:]

    elif case["residual"]:
        y = torch.zeros(T, N, device="cuda")

        def layer():
            y.add_(torch.matmul(x, weight.t()))

    elif case["bf16"]:
        layer = product
    else:

        def layer():
            return torch.mm(x, weight.t(), out_dtype=torch.float32)

    return product, layer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/release/bench/bench_linear_cuda_many")
    parser.add_argument("--only", help="as the C++ benchmark's")
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    command = [args.bench, "--repeats", str(args.repeats)] + (["--only", args.only] if args.only else [])

    def measure():
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return [json.loads(line) for line in lines]

    flush = torch.empty(256 << 20, device="cuda", dtype=torch.uint8)
    first = measure()
    theirs = []
    for case in first:
        product, layer = peers(case)
        theirs.append([median_us(call, flush, args.repeats) for call in (product, layer)])
        del product, layer
        torch.cuda.empty_cache()
    print(f"{'op':8}{'T':>6}{'K':>7}{'N':>8}  {'tile':8}{'us':>9}{'again':>9}{'TFLOP/s':>9}{'of peak':>8}"
          f"{'cuBLAS us':>11}{'ratio':>7}{'separate us':>13}{'ratio':>7}")  # fmt: skip
    for case, again, (product_us, layer_us) in zip(first, measure(), theirs):
        us = min(case["us"], again["us"])
        flops = 2 * case["T"] * case["K"] * case["N"] * (2 if case["gated"] else 1)
        print(f"{case['op']:8}{case['T']:6}{case['K']:7}{case['N']:8}  {case['tile']:8}{case['us']:9.1f}"
              f"{again['us']:9.1f}{flops / us * 1e-6:9.1f}{flops / us * 1e-6 / PEAK_TFLOPS:8.3f}{product_us:11.1f}"
              f"{product_us / us:7.3f}{layer_us:13.1f}{layer_us / us:7.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
