"""Times PyTorch's f16 and bf16 products and its int4 product, where torch and a device are at hand.

The method is that of the sweep beside this file: graph replays between events, weights in copies that exceed the
second-level cache several times, the median of the replays.

    python3 torch_peers.py --json torch.json [--shapes KxN,...] [--m M,...] [--group G] [--samples S] [--seconds T]
"""

import argparse
import json
import statistics
import sys
import time

SHAPES = "8192x8192,4096x4096,4096x14336,14336x4096,8192x57344,28672x8192,8192x10240,4096x28672,4096x6144"
TOKENS = "1,2,4,8,16,32,64,128,256,512,1024,4096"


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--m", default=TOKENS)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--samples", type=int, default=51)
    parser.add_argument("--seconds", type=float, default=480)
    return parser.parse_args()


def measure(torch, copies, samples, launch):
    """Microseconds of one launch: median, least, most. launch(copy) enqueues one product."""
    stream = torch.cuda.Stream()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(stream):
        launch(0)
        begin.record(stream)
        launch(0)
        end.record(stream)
        end.synchronize()
        once = begin.elapsed_time(end) * 1000
        launches = copies
        while launches < 16 and launches * once < 2000:
            launches += copies
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(launches):
                launch(i % copies)
        for _ in range(3):
            graph.replay()
        times = []
        for _ in range(samples):
            torch.cuda._sleep(300000)  # the graph is enqueued before the first event happens
            begin.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000 / launches)
    return statistics.median(times), min(times), max(times)


def backends(torch, n, k, group, cache):
    """Name, type, bytes of a weight, copies, and product(x, y, copy) of each; built one after the other."""

    def copies_of(size):
        return max(2, -(-4 * cache // size))

    for dtype, name in ((torch.float16, "f16"), (torch.bfloat16, "bf16")):
        first = torch.randn(n, k, device="cuda", dtype=dtype)
        size = first.numel() * 2
        weights = [first.clone() for _ in range(copies_of(size))]
        yield "torch", name, dtype, size, len(weights), lambda x, i, w=weights: torch.mm(x, w[i].t())
        del first, weights

    codes = torch.randint(0, 16, (n, k), device="cuda", dtype=torch.int32)
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    packed = torch._convert_weight_to_int4pack(pairs, 8)
    scales = torch.rand(k // group, n, 2, device="cuda", dtype=torch.bfloat16)  # scale and zero point, side by side
    size = packed.numel() * packed.element_size() + scales.numel() * 2
    weights = [(packed.clone(), scales.clone()) for _ in range(copies_of(size))]

    def product(x, i):
        return torch._weight_int4pack_mm(x, weights[i][0], group, weights[i][1])

    yield "torch-int4", "bf16", torch.bfloat16, size, len(weights), product


def main():
    o = options()
    try:
        import torch
    except ImportError as error:
        sys.exit(f"torch_peers: not measured: {error}")
    if not torch.cuda.is_available():
        sys.exit("torch_peers: not measured: this torch finds no CUDA device")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    properties = torch.cuda.get_device_properties(0)
    result = {"device": properties.name, "torch": torch.__version__, "cells": [], "notMeasured": []}
    print(f"torch {torch.__version__}, {properties.name}")
    begin = time.monotonic()
    for shape in o.shapes.split(","):
        k, n = (int(part) for part in shape.split("x"))
        if time.monotonic() - begin > o.seconds:
            result["notMeasured"].append(f"{shape}: no time left")
            continue
        each = backends(torch, n, k, o.group, properties.L2_cache_size)
        while True:
            try:
                name, kind, dtype, size, copies, product = next(each)
            except StopIteration:
                break
            except (RuntimeError, AttributeError, TypeError) as error:
                result["notMeasured"].append(f"{shape}: {error}")
                print(f"not measured: {result['notMeasured'][-1]}")
                break
            for m in (int(part) for part in o.m.split(",")):
                if time.monotonic() - begin > o.seconds:
                    result["notMeasured"].append(f"{shape} m={m} {name} {kind}: no time left")
                    continue
                x = torch.randn(m, k, device="cuda", dtype=dtype)
                try:
                    median, least, most = measure(torch, copies, o.samples, lambda i: product(x, i))
                except (RuntimeError, AttributeError, TypeError) as error:
                    result["notMeasured"].append(f"{shape} m={m} {name} {kind}: {error}")
                    print(f"not measured: {result['notMeasured'][-1]}")
                    break
                result["cells"].append({
                    "backend": name, "type": kind, "k": k, "n": n, "m": m, "microseconds": median, "least": least,
                    "most": most, "samples": o.samples, "copies": copies, "bytes": size + 2 * m * (n + k),
                })
                print(f"{k:7} {n:7} {m:6}  {name:10} {kind:4} {median:10.2f} {least:10.2f} {most:10.2f}", flush=True)
            del product
        del each
        torch.cuda.empty_cache()
        with open(o.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    with open(o.json, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
