#!/usr/bin/env python3
"""Linear layers of many rows beside cuBLAS (through torch), on one GPU.

    python3 bench/micro/linear_cuda_many.py [--bench build/release/bench/bench_linear_cuda_many] [--only NAME[,T]]
        [--T A,B]

For each shape: Tandem's kernel (the C++ benchmark), torch.matmul with bf16 results and nothing after it, and torch with
what Tandem's kernel does besides (residual in f32, activation, f32 results) as separate kernels; for experts,
torch's grouped product. In turns, twice; both overwrite the L2 cache before each call; the better median of the two.
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


def uniform(*shape, scale=1.0):
    return torch.empty(*shape, device="cuda", dtype=torch.bfloat16).uniform_(-scale, scale)


def expert_ends(X, T):
    """As the C++ benchmark has them."""
    shares = [0.5 + e * 2654435761 % 1000 / 1000 for e in range(X)]
    ends = [int(sum(shares[: e + 1]) / sum(shares) * T) for e in range(X)]
    return torch.tensor(ends[:-1] + [T], device="cuda", dtype=torch.int32)


def peers(case):
    """The product alone in bf16, and the same layer from separate kernels."""
    T, K, N, X = case["T"], case["K"], case["N"], case["X"]
    x = uniform(T, K)
    width = N * (2 if case["gated"] else 1)
    if X > 1:
        weight, ends = uniform(X, width, K, scale=1 / 32), expert_ends(X, T)

        def product():
            return torch._grouped_mm(x, weight.transpose(1, 2), offs=ends)

    else:
        weight = uniform(width, K, scale=1 / 32)

        def product():
            return torch.matmul(x, weight.t())

    def layer():
        if case["gated"]:
            pair = product()
            return F.silu(pair[:, :N]) * pair[:, N:]
        if case["residual"]:
            return y.add_(product())
        return product() if case["bf16"] else torch.mm(x, weight.t(), out_dtype=torch.float32)

    y = torch.zeros(T, N, device="cuda") if case["residual"] else None
    return product, layer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/release/bench/bench_linear_cuda_many")
    parser.add_argument("--only", help="NAME or ,T or NAME,T")
    parser.add_argument("--T", help="a model's layers at these rows, instead of all cases")
    parser.add_argument("--tiles", help="the best of these instead of the one chosen")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()

    def run(*more):
        rows = ["--T", args.T] if args.T else []
        return subprocess.run([args.bench, *rows, *more], check=True, capture_output=True, text=True).stdout.splitlines()

    flush = torch.empty(256 << 20, device="cuda", dtype=torch.uint8)
    print(f"{'op':12}{'T':>6}{'K':>7}{'N':>8}  {'tile':10}{'us':>9}{'TFLOP/s':>9}{'of peak':>8}{'cuBLAS us':>11}"
          f"{'ratio':>7}{'separate us':>13}{'ratio':>7}")  # fmt: skip
    for name in run("--list", *(["--only", args.only] if args.only else [])):
        options = ["--only", name, "--repeats", str(args.repeats), *(["--tiles", args.tiles] if args.tiles else [])]
        cases, theirs = [], []
        for _ in range(2):
            cases += [json.loads(line) for line in run(*options)]
            calls = peers(cases[0])
            theirs.append([median_us(call, flush, args.repeats) for call in calls])
            del calls
            torch.cuda.empty_cache()
        case = min(cases, key=lambda case: case["us"])
        us, product_us, layer_us = case["us"], min(t[0] for t in theirs), min(t[1] for t in theirs)
        flops = 2 * case["T"] * case["K"] * case["N"] * (2 if case["gated"] else 1)
        print(f"{case['op']:12}{case['T']:6}{case['K']:7}{case['N']:8}  {case['tile']:10}{us:9.1f}"
              f"{flops / us * 1e-6:9.1f}{flops / us * 1e-6 / PEAK_TFLOPS:8.3f}{product_us:11.1f}"
              f"{product_us / us:7.3f}{layer_us:13.1f}{layer_us / us:7.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
