#!/usr/bin/env python3
"""The soft read's dense formula in PyTorch, every entry for every query, on what bench_soft_read_cuda measures: as many
queries at a time as fit a chunk of 2^28 pairs, forward alone and with autograd's backward. One JSON line a case.

    soft_read_peer.py [--smoke] [--repeats N]
"""

import argparse
import json

import torch


def timed(call, repeats):
    times = []
    for _ in range(repeats + 1):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times[1:])[repeats // 2]


def read(q, k, v, log_w, tau):
    return torch.softmax(log_w - (q[:, None] - k).abs() / tau, dim=1) @ v


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    n, batches = (20000, [1024]) if args.smoke else (1000000, [4096, 65536])
    width = 16
    torch.manual_seed(1)
    k = torch.rand(n, device="cuda", requires_grad=True)
    v = torch.randn(n, width, device="cuda", requires_grad=True)
    w = torch.rand(n, device="cuda").add_(0.5).requires_grad_()
    tau = torch.tensor(0.01, device="cuda", requires_grad=True)
    chunk = max(1, (1 << 28) // n)
    for m in batches:
        q, g = torch.rand(m, device="cuda", requires_grad=True), torch.randn(m, width, device="cuda")

        def forward():
            with torch.no_grad():
                for i in range(0, m, chunk):
                    read(q[i : i + chunk], k, v, w.log(), tau)

        def both():
            for i in range(0, m, chunk):
                read(q[i : i + chunk], k, v, w.log(), tau).backward(g[i : i + chunk])

        for op, call in (("read", forward), ("read_backward", both)):
            us = timed(call, args.repeats)
            print(json.dumps({"op": "torch_dense_" + op, "n": n, "D": width, "m": m, "us": round(us, 1)}), flush=True)


main()
