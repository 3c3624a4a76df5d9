#!/usr/bin/env python3
"""Calls xds:///NAME with grpcio as it is: the same arguments and lines of JSON as the client in Go (tests/go/grpc-client).

Sends the message in so many closed loops until standard input is closed. Beside what the other one says, `models` counts
the answers by the model that gave them.
"""
import argparse
import collections
import json
import sys
import threading
import time

import grpc
from tritonclient.grpc import service_pb2

PAUSE_AFTER_FAILURE_S = 0.01

parser = argparse.ArgumentParser()
for name in ("--target", "--method", "--message"):
    parser.add_argument(name, required=True)
parser.add_argument("--concurrency", type=int, default=1)
parser.add_argument("--deadline", default="5s")
arguments = parser.parse_args()

with open(arguments.message, "rb") as file:
    message = file.read()
deadline = float(arguments.deadline.rstrip("s"))
channel = grpc.insecure_channel(arguments.target)
call = channel.unary_unary(arguments.method)  # bytes in, bytes out

lock = threading.Lock()
stopped = threading.Event()
codes, models = collections.Counter(), collections.Counter()
messages, took = {}, []


def one():
    began = time.monotonic()
    try:
        answer = service_pb2.ModelInferResponse.FromString(call(message, timeout=deadline))
        code, text, model = "OK", "", answer.model_name
    except grpc.RpcError as error:
        code, text, model = error.code().name, error.details(), None
    milliseconds = (time.monotonic() - began) * 1000
    with lock:
        if not codes:
            print(json.dumps({"first": {"code": code, "ms": milliseconds, "message": text}}), flush=True)
        codes[code] += 1
        if model is None:
            messages.setdefault(code, text)
        else:
            models[model] += 1
            took.append(milliseconds)
    return code == "OK"


def loop():
    while not stopped.is_set():
        if not one():
            stopped.wait(PAUSE_AFTER_FAILURE_S)


loops = [threading.Thread(target=loop) for _ in range(arguments.concurrency)]
for thread in loops:
    thread.start()
sys.stdin.read()
stopped.set()
for thread in loops:
    thread.join()
took.sort()


def quantile(part):
    return took[int(part * (len(took) - 1))] if took else 0.0


calls = sum(codes.values())
figures = {"p50_ms": quantile(0.5), "p99_ms": quantile(0.99), "max_ms": quantile(1)}
print(json.dumps({"calls": calls, "failed": calls - len(took), "codes": codes, "messages": messages, **figures, "models": models}))
