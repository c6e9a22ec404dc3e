#!/usr/bin/env python3
"""Fused attention beside PyTorch's, on one GPU: the tables of the FlashAttention papers, grouped heads, packed
sequences of unequal lengths, and many answers to one prompt.

    PYTHONPATH=build/gpu_python python3 bench/micro/attention.py [--quick] [--check] [--json FILE] [--plot FILE.svg]

How it is measured. Contestants of a case run in turns on the same inputs in one process. Before each call the L2 cache
is overwritten, and the GPU is kept busy until the call and both events around it are queued, so that no time of the
host's is in it. Forward: Tandem's operator, which writes lse; torch's scaled_dot_product_attention with gradients
wanted, so that it writes it too. Backward: Tandem's operator; torch.autograd.grad of that output. Median and p95 of
--repeats calls. FLOPs count visible pairs only: 4 D a pair and head forward, 10 D backward.

cuDNN has no such call for packed sequences. "prompts" is measured beside torch's packed FlashAttention with a copy of
the prompt before each answer, and its FLOPs are those of the shared form: more work for the same answer counts as time.
"""

import argparse
import collections
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import tandem
from tandem import torch_ops  # noqa: F401: registers the operators

PEAK_TFLOPS = 989.4  # dense bf16 of an H100 or H200 SXM
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
FORWARD = ("tandem", "flash", "cudnn")
BACKWARD = ("tandem", "tandem-unordered", "flash", "cudnn")
COLOURS = {"tandem": "tab:blue", "tandem-unordered": "lightskyblue", "flash": "tab:orange", "cudnn": "tab:green"}

Case = collections.namedtuple("Case", "kind B S H G D causal prompts answers lengths", defaults=(None, None, None))


def cases(quick):
    sizes = (512, 2048) if quick else (512, 1024, 2048, 4096, 8192, 16384)
    for D in (128,) if quick else (64, 128, 256):
        for causal in (True, False):
            for S in sizes:
                yield Case("heads", 16384 // S, S, 2048 // D, 2048 // D, D, causal)
    for S in (2048,) if quick else (2048, 4096, 8192, 16384):
        yield Case("gqa", 1, S, 64, 8, 128, True)
    lengths = lognormal_lengths(16384)
    yield Case("packed", len(lengths), 16384, 16, 16, 128, True, lengths=lengths)
    chance = random.Random(1)
    answers = [[128 * chance.randint(1, 8) for _ in range(8)] for _ in range(2 if quick else 8)]
    yield Case("prompts", len(answers), 1024, 16, 16, 128, True, prompts=[1024] * len(answers), answers=answers)


def lognormal_lengths(total):
    chance, lengths = random.Random(0), []
    while sum(lengths) < total:
        lengths.append(min(int(chance.lognormvariate(math.log(600), 1.0)) + 1, total - sum(lengths)))
    return lengths


def wanted(case, only, sizes):
    """Terms such as D=128, causal, full, gqa: those of one name are alternatives, different names must all hold."""
    if sizes and case.S not in sizes:
        return False
    terms = collections.defaultdict(list)
    for term in only:
        name, _, value = term.partition("=")
        kind = "mask" if name in ("causal", "full") else name if value else "kind"
        terms[kind].append(value or name)
    facts = {"mask": "causal" if case.causal else "full", "kind": case.kind, "D": str(case.D), "S": str(case.S)}
    facts |= {"H": str(case.H), "G": str(case.G), "B": str(case.B)}
    return all(facts.get(kind) in values for kind, values in terms.items())


class Tandem:
    def __init__(self, q, k, v, dout, mask):
        self.inputs, self.dout = (q, k, v, None), dout
        self.numbers = (*mask, q.shape[-1] ** -0.5, 0.0)

    def forward(self):
        return torch.ops.tandem.attention_forward(*self.inputs, *self.numbers, True)

    def backward(self, deterministic):
        saved = self.forward()

        def call():
            return torch.ops.tandem.attention_backward(
                *self.inputs, *saved, self.dout, None, *self.numbers, deterministic
            )

        return call


class Sdpa:
    """torch's attention of whole sequences; tensors [B,S,H,D] as it wants them, [B,H,S,D], without a copy."""

    def __init__(self, q, k, v, dout, causal, backend):
        self.inputs = [x.transpose(1, 2).detach().requires_grad_() for x in (q, k, v)]
        self.dout = dout.transpose(1, 2)
        self.causal, self.backend = causal, backend

    def forward(self):
        q, k, v = self.inputs
        with sdpa_kernel(self.backend):
            out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, enable_gqa=q.shape[1] != k.shape[1])
        return out, None

    def backward(self):
        out, _ = self.forward()
        return lambda: torch.autograd.grad(out, self.inputs, self.dout, retain_graph=True)


class PackedFlash:
    """torch's packed FlashAttention, through the operators that it has below its functions."""

    def __init__(self, q, k, v, dout, lengths):
        self.inputs, self.dout, self.scale = (q, k, v), dout, q.shape[-1] ** -0.5
        offsets = torch.tensor([0, *lengths]).cumsum(0).to(device=q.device, dtype=torch.int32)
        self.sequences = (offsets, offsets, max(lengths), max(lengths), 0.0, True)

    def forward(self):
        return torch.ops.aten._flash_attention_forward(*self.inputs, *self.sequences, False, scale=self.scale)

    def backward(self):
        out, lse, rng_state, unused, _ = self.forward()
        return lambda: torch.ops.aten._flash_attention_backward(
            self.dout, *self.inputs, out, lse, *self.sequences, rng_state, unused, scale=self.scale
        )


class Flex:
    """torch's flex_attention, compiled, with the prompts shared."""

    def __init__(self, q, k, v, dout, plan):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        owner = torch.zeros(plan.T, dtype=torch.int32, device=q.device)
        prompt = torch.zeros_like(owner)
        for i, (row, count, prefix_row, prefix_count, *_) in enumerate(plan.segments):
            owner[row : row + count] = i
            prompt[row : row + count] = owner[prefix_row] if prefix_count else i

        def visible(b, h, t, s):
            own = (owner[t] == owner[s]) & (t >= s)
            return own | ((owner[t] != owner[s]) & (prompt[t] == owner[s]))

        self.inputs = [x.unsqueeze(0).transpose(1, 2).detach().requires_grad_() for x in (q, k, v)]
        self.dout = dout.unsqueeze(0).transpose(1, 2)
        self.mask = create_block_mask(visible, None, None, plan.T, plan.T, device=q.device, _compile=True)
        self.function = torch.compile(flex_attention, dynamic=False)

    def forward(self):
        return self.function(*self.inputs, block_mask=self.mask), None

    def backward(self):
        out, _ = self.forward()
        return lambda: torch.autograd.grad(out, self.inputs, self.dout, retain_graph=True)


def randn(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def contestants(case, flex):
    """[(pass, name, make)]: make() readies the call to time. And the plan that FLOPs are counted from."""
    if case.kind in ("heads", "gqa"):
        plan = tandem.AttentionPlan.batch(case.B, case.S, causal=case.causal)
        q, dout = (randn(case.B, case.S, case.H, case.D) for _ in range(2))
        k, v = (randn(case.B, case.S, case.G, case.D) for _ in range(2))
        ours = Tandem(q, k, v, dout, (plan.handle, 0, 0))
        theirs = {name: Sdpa(q, k, v, dout, case.causal, backend) for name, backend in BACKENDS.items()}
    else:
        if case.kind == "packed":
            rows_of_theirs, lengths = None, case.lengths
            offsets = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
            plan = tandem.AttentionPlan.packed(offsets, causal=True)
        else:
            plan = tandem.prompt_answers_plan(case.prompts, case.answers)
            repeated = [
                [*range(prefix_row, prefix_row + prefix_count), *range(row, row + count)]
                for row, count, prefix_row, prefix_count, *_ in plan.segments
                if prefix_count
            ]
            lengths = [len(rows) for rows in repeated]
            rows_of_theirs = torch.tensor([row for rows in repeated for row in rows], device="cuda")
        q, dout = (randn(plan.T, case.H, case.D) for _ in range(2))
        k, v = (randn(plan.S, case.G, case.D) for _ in range(2))
        ours = Tandem(q, k, v, dout, (plan.handle, 0, 0))
        copies = [x if rows_of_theirs is None else x[rows_of_theirs] for x in (q, k, v, dout)]
        theirs = {"flash": PackedFlash(*copies, lengths)}
        if flex and case.kind == "prompts":
            theirs["flex"] = Flex(q, k, v, dout, plan)
    calls = [
        ("fwd", "tandem", lambda: ours.forward),
        ("bwd", "tandem", lambda: ours.backward(True)),
        ("bwd", "tandem-unordered", lambda: ours.backward(False)),
    ]
    for name, other in theirs.items():
        calls.append(("fwd", name, lambda other=other: other.forward))
        calls.append(("bwd", name, other.backward))
    return calls, plan


class Clock:
    def __init__(self, repeats):
        self.repeats = repeats
        self.flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")

    def measure(self, calls):
        """Nanoseconds of each call of each name, in turns."""
        events = {name: [] for name in calls}
        for _ in range(3):
            for call in calls.values():
                call()
        names = list(calls)
        for turn in range(self.repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.flush.zero_()
                torch.cuda._sleep(1_000_000)  # cycles: half a millisecond, longer than any call takes to queue
                begin.record()
                calls[name]()
                end.record()
                events[name].append((begin, end))
        torch.cuda.synchronize()
        return {name: sorted(1e6 * a.elapsed_time(b) for a, b in pairs) for name, pairs in events.items()}


def hash_of(result):
    first = result[0] if isinstance(result, (tuple, list)) else result
    return f"{int(first.contiguous().view(torch.int16).sum(dtype=torch.int64)) & 0xFFFFFFFF:08x}"


def run_case(case, passes, clock, facts, options):
    """{(pass, name): TFLOP/s}; prints a line of JSON for each."""
    calls, plan = contestants(case, options.flex)
    stream = tandem._core.Stream("cuda:0", torch.cuda.current_stream().cuda_stream)
    core = plan.core(case.H, case.G, case.D, stream)
    rates = {}
    for which in passes:
        flops = (4 if which == "fwd" else 10) * core.visible_pairs * case.D * case.H
        ready, hashes = {}, {}
        for kind, name, make in calls:
            if kind != which or name in options.without:
                continue
            try:
                call = make()
                hashes[name] = hash_of(call())
                torch.cuda.synchronize()
                ready[name] = call
            except (RuntimeError, ValueError) as error:
                print(f"# {label(case)} {which} {name}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
        for name, ns in clock.measure(ready).items() if ready else ():
            median = statistics.median(ns)
            rates[which, name] = flops / median / 1e3
            line = {
                "op": "fused_attention", "pass": which, "contestant": name, "case": case.kind, "B": case.B, "S": case.S,
                "H": case.H, "G": case.G, "D": case.D, "causal": case.causal, "T": plan.T, "path": core.path,
                "dtype": "bf16", **facts, "ns_median": round(median), "ns_p95": round(ns[int(0.95 * (len(ns) - 1))]),
                "flops": flops, "tflops": round(rates[which, name], 1),
                "of_peak": round(rates[which, name] / PEAK_TFLOPS, 4), "hash": hashes[name],
            }  # fmt: skip
            print(json.dumps(line), file=options.json_file)
    return rates


def label(case):
    heads = f"H={case.H}" if case.H == case.G else f"H={case.H}/{case.G}"
    mask = "causal" if case.causal else "full"
    return f"{case.kind:7} D={case.D:<3} {mask:6} {heads:7} B={case.B:<3} S={case.S:<5}"


def row(case, rates):
    def number(key):
        return f"{rates[key]:6.0f}" if key in rates else "     -"

    def ratio(which, name):
        other = rates.get((which, "cudnn")) or rates.get((which, "flash"))
        return f"{rates[which, name] / other:6.2f}" if (which, name) in rates and other else "     -"

    def of_peak(which):
        return f"{rates[which, 'tandem'] / PEAK_TFLOPS:6.1%}" if (which, "tandem") in rates else "     -"

    forward = " ".join(number(("fwd", name)) for name in FORWARD)
    backward = " ".join(number(("bwd", name)) for name in BACKWARD)
    extra = "".join(f"  flex {which}{number((which, 'flex'))}" for which in ("fwd", "bwd") if (which, "flex") in rates)
    return (
        f"{label(case)} | {forward} {ratio('fwd', 'tandem')} {of_peak('fwd')} | {backward} {ratio('bwd', 'tandem')} "
        f"{ratio('bwd', 'tandem-unordered')} {of_peak('bwd')}{extra}"
    )


HEADER = (
    f"{'TFLOP/s; / over cudnn, else over flash':42} | tandem  flash  cudnn      / of 989 | "
    "tandem unord.  flash  cudnn      /   un./ of 989"
)


def summary(results):
    for which, name in (("fwd", "tandem"), ("bwd", "tandem"), ("bwd", "tandem-unordered")):
        ratios = [
            rates[which, name] / rates[which, "cudnn"]
            for rates in results.values()
            if (which, name) in rates and (which, "cudnn") in rates
        ]
        if ratios:
            mean = math.exp(statistics.fmean(math.log(x) for x in ratios))
            ahead = sum(x > 1 for x in ratios)
            print(f"{which} {name}: {mean:.3f} of cudnn in the geometric mean, ahead in {ahead} of {len(ratios)} cases")


def describe_machine():
    def ask(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    smi = ask("nvidia-smi", "--id=0", f"--query-gpu={fields}", "--format=csv,noheader,nounits").split(", ")
    commit = os.environ.get("TANDEM_COMMIT") or ask("git", "rev-parse", "--short", "HEAD") or "unknown"
    names = ("driver", "clock_mhz", "clock_mhz_max", "memory_mhz", "power_limit_w")
    return {
        "gpu": torch.cuda.get_device_name(0), **dict(zip(names, smi)), "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(), "commit": commit,
    }  # fmt: skip


def errors(D):
    """One draw of inputs: side -> the errors of out, dq, dk, dv against float64 (relative, root mean square), or why it
    has none."""
    B, S, H, G = 2, 1024, 8, 4
    tensors = [randn(B, S, heads, D) for heads in (H, G, G, H)]

    def plain(dtype):
        q, k, v = (x.to(dtype).transpose(1, 2).detach().requires_grad_() for x in tensors[:3])
        keys, values = (x.repeat_interleave(H // G, 1) for x in (k, v))
        scores = q @ keys.transpose(2, 3) * D**-0.5
        scores = scores.masked_fill(torch.ones(S, S, device="cuda", dtype=torch.bool).triu(1), -math.inf)
        out = torch.softmax(scores, -1) @ values
        gradients = torch.autograd.grad(out, (q, k, v), tensors[3].to(dtype).transpose(1, 2))
        return [x.detach().transpose(1, 2).double() for x in (out, *gradients)]

    def of_torch(backend):
        repeated = [tensors[0], *(x.repeat_interleave(H // G, 2) for x in tensors[1:3])]
        other = Sdpa(*repeated, tensors[3], True, backend)
        dq, dk, dv = other.backward()()
        out = other.forward()[0]
        sums = (x.double().unflatten(1, (G, H // G)).sum(2) for x in (dk, dv))
        return [x.detach().transpose(1, 2).double() for x in (out, dq, *sums)]

    def of_tandem(deterministic):
        ours = Tandem(*tensors, (0, tandem.plans.UNBOUNDED, 0))
        dq, dk, dv, _ = ours.backward(deterministic)()
        return [x.double() for x in (ours.forward()[0], dq, dk, dv)]

    truth = plain(torch.float64)
    sides = {
        "tandem": lambda: of_tandem(True), "tandem-unordered": lambda: of_tandem(False),
        "cudnn": lambda: of_torch(BACKENDS["cudnn"]), "flash": lambda: of_torch(BACKENDS["flash"]),
        "plain bf16": lambda: plain(torch.bfloat16),
    }  # fmt: skip
    found = {}
    for name, side in sides.items():
        try:
            found[name] = [float((a - b).norm() / b.norm()) for a, b in zip(side(), truth)]
        except (RuntimeError, ValueError) as error:
            found[name] = str(error).splitlines()[0][:120]
    return found


def check(draws):
    """Errors against float64: ours, cuDNN's, torch flash's, and those of the formula computed with bf16 products,
    scores and weights. Means over several draws of the inputs: on one, which of two equally exact orders of rounding
    comes out ahead is chance, by as much as 4 %. With them, how ours compare on the same draw."""
    print(f"errors against float64 (relative, root mean square), means of {draws} draws; causal, B=2 S=1024 H=8 G=4")
    print("(in brackets: ours over theirs on the same draw, mean +- standard error)")
    for D in (64, 96, 128, 256):
        found = [errors(D) for _ in range(draws)]
        for name in found[0]:
            failures = [of[name] for of in found if isinstance(of[name], str)]
            if failures:
                print(f"D={D:<3} {name:16} {failures[0]}")
                continue
            line = f"D={D:<3} {name:16}"
            for i, what in enumerate(("out", "dq", "dk", "dv")):
                ratios = [of["tandem"][i] / of[name][i] for of in found]
                error = statistics.stdev(ratios) / math.sqrt(draws) if draws > 1 else 0.0
                line += f"  {what} {statistics.mean(of[name][i] for of in found):.3e}"
                line += f" ({statistics.mean(ratios):.4f} +- {error:.4f})" if name != "tandem" else " " * 19
            print(line.rstrip())


def plot(results, facts, path):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    panels = sorted({(case.D, case.causal) for case in results if case.kind == "heads"})
    if not panels:
        return
    figure, axes = plt.subplots(2, len(panels), figsize=(3.4 * len(panels), 6), sharey="row", squeeze=False)
    for column, (D, causal) in enumerate(panels):
        chosen = [case for case in results if case.kind == "heads" and (case.D, case.causal) == (D, causal)]
        for axis, which, names in zip(axes[:, column], ("fwd", "bwd"), (FORWARD, BACKWARD)):
            names = [name for name in names if any((which, name) in results[case] for case in chosen)]
            for i, name in enumerate(names):
                heights = [results[case].get((which, name), 0) for case in chosen]
                width = 0.8 / len(names)
                axis.bar([x + (i - (len(names) - 1) / 2) * width for x in range(len(chosen))], heights, width, label=name,
                         color=COLOURS[name])
            axis.set_title(f"{'forward' if which == 'fwd' else 'backward'}, D={D}, {'causal' if causal else 'full'}")
            axis.set_xticks(range(len(chosen)), [f"{case.S // 1024}k" if case.S >= 1024 else case.S for case in chosen])
    for axis, which in zip(axes[:, 0], ("forward", "backward")):
        axis.set_ylabel(f"{which}, TFLOP/s")
    figure.suptitle(f"{facts['gpu']}, bf16, 16384 tokens, H D = 2048; torch {facts['torch']}, cuDNN {facts['cudnn']}")
    bars, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(bars, names, loc="lower center", ncols=len(names))
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="comma-separated: D=128 S=4096 causal full heads gqa packed prompts")
    parser.add_argument("--sizes", default="", help="comma-separated S")
    parser.add_argument("--passes", default="fwd,bwd")
    parser.add_argument("--without", default="", help="comma-separated contestants to leave out")
    parser.add_argument("--repeats", type=int, default=0, help="default 21; 7 with --quick")
    parser.add_argument("--quick", action="store_true", help="a few small cases")
    parser.add_argument("--flex", action="store_true", help="flex_attention too, for prompts (compiles for a minute)")
    parser.add_argument("--check", nargs="?", type=int, const=12, help="only errors against float64, over so many draws")
    parser.add_argument("--json", default="-", help="where the JSON lines go; -: here")
    parser.add_argument("--plot", help="an SVG of the table")
    options = parser.parse_args()
    options.without = options.without.split(",")

    begun = time.monotonic()
    torch.manual_seed(0)
    facts = describe_machine()
    print(json.dumps(facts))
    if options.check:
        return check(options.check)
    options.json_file = sys.stdout if options.json == "-" else open(options.json, "w", buffering=1)
    only = [term for term in options.only.split(",") if term]
    sizes = {int(size) for size in options.sizes.split(",") if size}
    chosen = [case for case in cases(options.quick) if wanted(case, only, sizes)]
    clock = Clock(options.repeats or (7 if options.quick else 21))
    results = {}
    if options.json_file is not sys.stdout:
        print(HEADER)
    for case in chosen:
        key = case._replace(prompts=None, answers=None, lengths=None)
        results[key] = run_case(case, options.passes.split(","), clock, facts, options)
        if options.json_file is not sys.stdout:
            print(row(case, results[key]), flush=True)
    if options.json_file is sys.stdout:
        print(HEADER)
        for case, rates in results.items():
            print(row(case, rates))
    summary(results)
    print(f"{time.monotonic() - begun:.0f} s; clocks after: {describe_machine().get('clock_mhz')} MHz")
    if options.plot:
        plot(results, facts, options.plot)


if __name__ == "__main__":
    main()
