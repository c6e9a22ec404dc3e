#!/usr/bin/env python3
"""torch.matmul (cuBLAS) on the layers that bench_linear_few_rows measures: CUDA graphs of many launches in a row, each with
weights of its own. A gated pair is one product of both matrices here, without what follows it. Prints the same table.

    linear_peer.py [PART OF A LAYER'S NAME]
"""

import sys

import torch

FLOOR_GBS = 4570.0
LAYERS = {
    "8B.qkv": (4096, 6144), "8B.o": (4096, 4096), "8B.gate_up": (4096, 28672), "8B.down": (14336, 4096),
    "8B.lm_head": (4096, 128256), "1B.qkv": (2048, 3072), "1B.o": (2048, 2048), "1B.gate_up": (2048, 16384),
    "1B.down": (8192, 2048), "1B.lm_head": (2048, 128256),
}


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, (k, n) in LAYERS.items():
        if only not in name:
            continue
        copies = max(8, 1_500_000_000 // (2 * k * n))
        weights = torch.randn(copies, n, k, device="cuda", dtype=torch.bfloat16)
        for t in (1, 2, 4, 8, 16, 32, 64):
            x = torch.randn(t, k, device="cuda", dtype=torch.bfloat16)
            y = torch.empty(t, n, device="cuda", dtype=torch.bfloat16)
            torch.matmul(x, weights[0].T, out=y)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for i in range(copies):
                    torch.matmul(x, weights[i].T, out=y)
            times = []
            for _ in range(11):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                graph.replay()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) * 1e3 / copies)
            us = sorted(times[2:])[4]
            gbs = 2 * k * n / us * 1e-3
            share = 100 * gbs / FLOOR_GBS
            print(f"{name:<12} T {t:>2} {us:>9.2f} us {gbs:>6.0f} GB/s  {share:>5.1f} % of the floor", flush=True)
        del weights


main()
