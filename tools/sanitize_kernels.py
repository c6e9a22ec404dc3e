#!/usr/bin/env python3
"""compute-sanitizer's memcheck and racecheck over tests of the CUDA kernels, many processes at once.

Prints a table and fails if anything is found but what docs/kernels/races.md explains, or if one of the programs'
kernels was left out. Run by tools/gpu_check.sh sanitize, where the packed programs and a GPU are. Memcheck looks at
every launch; racecheck, under which a launch takes long, at the first few of the kernels that a job names.
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

PRINTED = 10000  # reports of a process
FUSED = "Paths/FusedAttentionCases.AgreesWithDoublePrecision/"
# Program, tests, the kernels that racecheck looks at (part of the name; none: all), and at how many launches (0: all;
# None: memcheck only; docs/kernels/races.md says where racecheck fails).
JOBS = [
    ("kernels", "AttentionDecodeCuda.WithEverythingThatAHeadCanHave", "decode_sm90", 20),
    ("kernels", "AttentionDecodeCuda.AnyGroupAndPage", "decode_sm90", 20),
    ("kernels", "AttentionDecodeCuda.WithEverythingThatAHeadCanHave", "sums_sm90", 8),
    ("kernels", "AttentionDecodeCuda.WithEverythingThatAHeadCanHave", "scores_sm90", 8),
    ("kernels", "AttentionDecodeCuda.OneLaunchHasTheBitsOfTwo", "few_sm90", 12),
    ("kernels", "AttentionCuda.OverE4m3HasTheBitsOfThatInBf16", "few_sm90", 12),
    ("kernels", "AttentionCuda.OverE4m3HasTheBitsOfThatInBf16", "paged_sm90", 12),
    ("kernels", "AttentionCuda.IsAsGoodAsThePlainFormula", "paged_sm90", 12),
    ("kernels", "AttentionCuda.TakesAnyPageSize", "attention_plain", 8),
    ("kernels", "AttentionCudaBits.*", "paged_sm90", 4),
    ("kernels", "NormRopeAppendCuda.AgreesWithDoublePrecision", "", 6),
    ("kernels", FUSED + "Sm90RaggedGapsWindow", "", 0),
    ("kernels", "Paths/FusedAttentionBits.ManyItemsHaveTheBitsOfFew/Sm90", "forward_sm90", 8),
    ("kernels", FUSED + "Sm90SoftcapSinksDlse64", "", 0),
    ("kernels", FUSED + "Sm90HeadDim128Answers", "", 0),
    ("kernels", FUSED + "Sm90SoftcapSinksDlse128", "", 0),
    ("kernels", FUSED + "Sm90HeadDim256Answers", "", 0),
    ("kernels", FUSED + "Sm90SoftcapSinksDlse256", "", 0),
    ("kernels", "Paths/FusedAttention.BackwardInTheOrderOfArrivalIsAsAccurate/Sm90", "backward", 6),
    ("kernels", "Paths/FusedAttentionBits.KeysOfManyHeadsDependOnThoseWhoSeeThemOnly/Sm90", "finish", 8),
    ("kernels", FUSED + "Sm80Causal192", "", 0),
    ("kernels", FUSED + "Sm80SoftcapSinksDlse64", "", 0),
    ("kernels", FUSED + "Sm80HeadDim256Causal145", "", 0),
    ("kernels", "LinearFewRowsCuda.AgreesWithDoublePrecision", "linear_few_rows", 12),
    ("kernels", "LinearFewRowsCuda.ASequenceOfLayersIsInOrder", "linear_few_rows", 10),
    ("kernels", "LinearFewRowsCuda.SomeRowsHaveTheSameBitsByAnyPlan", "linear_some_rows", 12),
    ("kernels", "LinearFewRowsCuda.ASequenceOfLayersOfSomeRowsIsInOrder", "linear_some_rows", 10),
    ("kernels", "LinearFewRowsCuda.GatesOfEverySize", "", 24),
    ("kernels", "LinearFewRowsGroupedCuda.ExpertsAreTheTwoLayersInTurn", "linear_few_rows", 10),
    ("kernels", "LinearFewRowsGroupedCuda.AReplayedPairOfLayersIsInOrder", "linear_few_rows", 10),
    ("kernels", "LinearManyRowsCuda.NanStaysInItsRow", "", 0),
    ("kernels", "LinearManyRowsCuda.ResidualsOfEverySize", "", 0),
    ("kernels", "LinearManyRowsCuda.*Groups*", "", None),
    ("kernels", "LinearBackwardCuda.EveryTileGivesTheSameBits", "", 0),
    ("kernels", "LinearBackwardCuda.AddsWhatDoublePrecisionDoes", "", None),
    ("kernels", "LinearCuda.AgreesWithDoublePrecision", "", 10),
    ("kernels", "LinearCuda.AgreesWithDoublePrecision", "plain_bf16", 4),
    ("kernels", "ChooseTokensCuda.OddValues", "choose_tokens", 2),
    ("kernels", "ChooseTokensCuda.ARowDependsOnNothingElse", "", None),
    ("kernels", "LargestCuda.*", "", 10),
    ("kernels", "RouterCuda.*", "", 6),
    ("kernels", "MoeGroupCuda.*", "", 6),
    ("kernels", "MoeRouteCuda.*", "moe_route", 6),
    ("kernels", "MoeRowsCuda.*", "gather", 6),
    ("kernels", "MoeRowsCuda.*", "combine", 6),
    ("kernels", "RmsNormCuda.AgreesWithDoublePrecision", "", 10),
    ("kernels", "RmsNormCuda.BackwardAgreesWithDoublePrecision", "", 8),
    ("kernels", "QkNormRopeCuda.AgreesWithDoublePrecision", "", 6),
    ("kernels", "QkNormRopeCuda.BackwardAgreesWithDoublePrecision", "", 6),
    ("kernels", "ServingRowsCuda.*", "", 20),
    ("ops", "Cuda/RowGradients.*", "", 0),
    ("ops", "Cuda/Gradients.*", "", 30),
    ("replay", "FlatSoftTableCuda.*", "", 30),
    ("replay", "FlatSoftTableWindowCuda.AgreesOverManyLevels", "", 12),
    ("replay", "FlatSoftTableWindowCuda.AgreesOverManyLevels", "window", 40),
    ("replay", "FlatSoftTableWindowCuda.AHistoryReadsAsTheTreesDoes", "erase", 12),
    ("replay", "FlatSoftTableOfKernelCuda.AgreesWithManyQueriesAndEqualKeys/*", "", 16),
    ("replay", "FlatSoftTableOfKernelCuda.AgreesWithManyQueriesAndEqualKeys/*", "matern", 40),
    ("replay", "FlatSoftTableOfKernelCuda.AgreesWithManyQueriesAndEqualKeys/*", "backward_entries_sm80", 16),
    ("replay", "FlatSoftTableWithoutCuda.AgreesAtAllWidths/*", "", 16),
    ("replay", "FlatSoftTableWithoutCuda.AgreesAtAllWidths/*", "window", 16),
]  # fmt: skip
# Kernels whose warps racecheck reports against each other, each pair explained in docs/kernels/races.md. A report of a
# warp against itself (a warning) is nowhere allowed.
KNOWN = [
    "attention_decode_sm90_kernel",
    "attention_few_sm90_kernel",
    "attention_sums_sm90_kernel",
    "attention_paged_sm90_kernel",
    "fused_attention_backward_sm90_kernel",
    "fused_attention_backward_wide_keys_sm90_kernel",
    "fused_attention_backward_wide_queries_sm90_kernel",
    "fused_attention_forward_sm90_kernel",
]
# Under racecheck 2025.3.1 an error of the tool's own ends the program that launches it; 2026.4 finds nothing.
NOT_BY_RACECHECK = "choose_tokens_sm90_kernel"


def sanitizer():
    in_toolkit = "/usr/local/cuda/bin/compute-sanitizer"
    found = shutil.which(os.environ.get("COMPUTE_SANITIZER") or "compute-sanitizer") or shutil.which(in_toolkit)
    return found or sys.exit(f"no compute-sanitizer in the path or at {in_toolkit}: name one with COMPUTE_SANITIZER")


def run_job(tool, index, job, folder, logs, limit):
    program, tests, kernels, launches = job
    command = ["timeout", "-s", "KILL", str(limit)]  # which ends the program under the tool, too
    command += [sanitizer(), "--tool", tool, "--print-limit", str(PRINTED), "--show-backtrace", "no"]
    command += ["--port", str(20000 + 40 * index)]  # processes at once must not look for each other's
    if tool == "racecheck" and kernels:
        command += ["--kernel-name", f"kns={kernels}"]
    if tool == "racecheck" and launches:
        command += ["--launch-count", str(launches)]
    command += [str(folder / f"test_{program}"), f"--gtest_filter={tests}"]
    start = time.monotonic()
    log, launched = logs / f"{tool}_{index}.log", logs / f"{tool}_{index}.launches"
    launched.unlink(missing_ok=True)
    with log.open("wb") as out:
        environment = os.environ | {"TANDEM_LAUNCHES": str(launched)}
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment).returncode
    return code, time.monotonic() - start, log.read_text(errors="replace"), launched


def looked_at(tool, job, launched):
    """The program's kernels, and those of them that the tool looked at: mangled names."""
    if not launched.exists():  # the program was killed, or cannot tell
        return set(), set()
    names, numbers = (part.split() for part in launched.read_text().split("\n\n"))
    launches = [names[int(number)] for number in numbers]
    if tool == "racecheck":
        launches = [name for name in launches if job[2] in name][: job[3] or None]
    return [{name for name in of if re.match("_ZN6tandem7kernels(?!7testing)", name)} for of in (names, launches)]


def kernel_of(mangled):
    """The last of a nested name's parts, each of which follows its length."""
    rest, name = mangled.removeprefix("_ZN"), ""
    while length := re.match(r"\d+", rest):
        begin = length.end()
        name, rest = rest[begin : begin + int(length[0])], rest[begin + int(length[0]) :]
    return name


def verdict_of(tool, job, code, text):
    """What to print, and whether it is good."""
    passed = len(re.findall(r"^\[       OK \]", text, re.M))
    summary = "RACECHECK SUMMARY: " if tool == "racecheck" else "ERROR SUMMARY: "
    found = re.search(summary + r"(\d+)", text)
    of_tool = tool == "racecheck" and job[2] and job[2] in NOT_BY_RACECHECK and "Internal Sanitizer Error" in text
    if of_tool and "[  FAILED" not in text:
        return "not looked at: an error of racecheck's own", True
    if code != 0 or found is None or passed == 0 or "FAILED" in text:
        return f"FAILED (exit {code}, {passed} tests passed)", False
    if int(found.group(1)) == 0:
        return f"clean ({passed} tests)", True
    kernels = collections.Counter()
    for severity, name in re.findall(r"= (\w+): Race reported between .*?(\w+)(?:<[^+]*>)?\([^+]*\)\+0x", text):
        kernels[name + (" within a warp" if severity.lower() == "warning" else "")] += 1
    listed = ", ".join(f"{name} {count}" for name, count in kernels.items())
    is_all = sum(kernels.values()) == int(found.group(1)) < PRINTED  # else some were not looked at here
    good = tool == "racecheck" and is_all and all(name in KNOWN for name in kernels)
    return f"{'known' if good else 'FOUND'}: {listed or found.group(0)}", good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="where test_kernels, test_ops and test_replay are")
    parser.add_argument("logs", type=pathlib.Path)
    parser.add_argument("--tools", default="memcheck,racecheck")
    parser.add_argument("--seconds", type=float, default=300, help="for each process")
    options = parser.parse_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    print(subprocess.run([sanitizer(), "--version"], capture_output=True, text=True).stdout.strip().splitlines()[-1])
    good = True
    kernels, looked = set(), collections.defaultdict(set)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        work = [(tool, job) for tool in options.tools.split(",") for job in JOBS]
        once = {job[:2]: job for job in reversed(JOBS)}  # memcheck needs the tests of several jobs once
        for_tool = {"memcheck": lambda job: once[job[:2]] is job, "racecheck": lambda job: job[3] is not None}
        work = [(tool, job) for tool, job in work if for_tool[tool](job)]
        runs = {
            pool.submit(run_job, tool, index, job, options.folder, options.logs, options.seconds): (tool, index, job)
            for index, (tool, job) in enumerate(work)
        }
        for run in concurrent.futures.as_completed(runs):
            tool, index, job = runs[run]
            code, seconds, text, launched = run.result()
            of_program, of_job = looked_at(tool, job, launched)
            kernels |= of_program
            looked[tool] |= of_job
            verdict, is_good = verdict_of(tool, job, code, text)
            good = good and is_good and (code != 0 or launched.exists())
            name = job[1].removeprefix("Paths/").replace("AgreesWithDoublePrecision", "Agrees")
            print(f"{tool:9} {index:3} {name[:58]:58} {job[2]:16} {seconds:4.0f} s  {verdict}", flush=True)
    for tool in options.tools.split(","):
        missed = {kernel_of(name) for name in kernels} - {kernel_of(name) for name in looked[tool]}
        if tool == "racecheck":
            missed.discard(NOT_BY_RACECHECK)
        print(f"{tool} looked at {len(looked[tool])} of {len(kernels)} instances, no kernel missing", end="")
        print(f" but {', '.join(sorted(missed))}" if missed else "")
        good = good and not missed and bool(kernels)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
