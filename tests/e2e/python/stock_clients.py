#!/usr/bin/env python3
"""Calls models through Envoy with unmodified clients: stock_clients.py HOST:PORT

tritonclient over HTTP (JSON and binary tensors) and gRPC, and plain grpcio, none of them with a header or metadata of
ours. The models `identity` and `iris` of the samples must be available. Prints a line for each check; the exit status
is 0 when all of them hold.
"""
import json
import sys
import urllib.request

import grpc
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

try:
    from ml_dtypes import bfloat16 as bf16  # the newer clients want it
except ImportError:
    bf16 = np.float32

URL = sys.argv[1]

VALUES = {
    "BOOL": np.array([True, False, True]),
    "UINT8": np.array([0, 1, 255], np.uint8),
    "UINT16": np.array([0, 1, 65535], np.uint16),
    "UINT32": np.array([0, 1, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 1, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 0, 127], np.int8),
    "INT16": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 0, 2**63 - 1], np.int64),
    "FP16": np.array([-1.5, 0.0, 65504.0], np.float16),
    "BF16": np.array([-1.5, 0.0, 3.0], bf16),
    "FP32": np.array([-1.5, 0.1, 3.4e38], np.float32),
    "FP64": np.array([-1.5, 0.1, 1.7e308], np.float64),
    "BYTES": np.array([b"", b"iris", "größer ≥ kleiner".encode()], object),
}
# JSON has no form for these in the client.
ONLY_BINARY = {"FP16", "BF16"}
IRIS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32)


def check(what, holds):
    print("ok  " if holds else "FAIL", what, flush=True)
    if not holds:
        sys.exit(1)


def equal(datatype, sent, received):
    if datatype == "BYTES":
        received = np.array([v if isinstance(v, bytes) else v.encode() for v in received.ravel()], object)
    return sent.shape == received.shape and bool((sent == received).all())


def identity(module, client, datatype, **binary):
    empty = {"BYTES": np.array([], object), "BF16": np.array([], bf16)}
    inputs = []
    for name, values in VALUES.items():
        data = values if name == datatype else empty.get(name, np.array([], values.dtype))
        tensor = module.InferInput(f"in_{name}", list(data.shape), name)
        if module is over_http:
            tensor.set_data_from_numpy(data, binary_data=binary["binary"] or name in ONLY_BINARY)
        else:
            tensor.set_data_from_numpy(data)
        inputs.append(tensor)
    wanted = {"binary_data": binary["binary"] or datatype in ONLY_BINARY} if module is over_http else {}
    outputs = [module.InferRequestedOutput(f"out_{datatype}", **wanted)]
    return client.infer("identity", inputs, outputs=outputs, request_id="7").as_numpy(f"out_{datatype}")


http_client = over_http.InferenceServerClient(URL)
grpc_client = over_grpc.InferenceServerClient(URL)

for client, name in ((http_client, "HTTP"), (grpc_client, "gRPC")):
    check(f"{name}: server is live and ready", client.is_server_live() and client.is_server_ready())
    check(f"{name}: model is ready", client.is_model_ready("iris"))

metadata = http_client.get_model_metadata("iris")
check("HTTP: metadata", metadata["inputs"][0]["name"] == "X" and metadata["inputs"][0]["datatype"] == "FP32")
metadata = grpc_client.get_model_metadata("iris")
check("gRPC: metadata", metadata.inputs[0].name == "X" and list(metadata.inputs[0].shape) == [-1, 4])

for datatype, values in VALUES.items():
    for binary in (True, False):
        form = "binary" if binary or datatype in ONLY_BINARY else "JSON"
        received = identity(over_http, http_client, datatype, binary=binary)
        check(f"HTTP, {form}: {datatype}", equal(datatype, values, received))
    received = identity(over_grpc, grpc_client, datatype)
    check(f"gRPC: {datatype}", equal(datatype, values, received))

for module, client, name in ((over_http, http_client, "HTTP"), (over_grpc, grpc_client, "gRPC")):
    tensor = module.InferInput("X", list(IRIS.shape), "FP32")
    tensor.set_data_from_numpy(IRIS)
    answer = client.infer("iris", [tensor])
    check(f"{name}: iris", list(answer.as_numpy("label")) == [0, 2])
    check(f"{name}: probabilities sum to one", np.allclose(answer.as_numpy("probabilities").sum(1), 1))
    try:
        client.infer("nosuch", [tensor])
        check(f"{name}: an unknown model is an error", False)
    except InferenceServerException as error:
        check(f"{name}: an unknown model is named: {error}", "nosuch" in str(error))

channel = grpc.insecure_channel(URL)
infer = channel.unary_unary(
    "/inference.GRPCInferenceService/ModelInfer",
    request_serializer=service_pb2.ModelInferRequest.SerializeToString,
    response_deserializer=service_pb2.ModelInferResponse.FromString,
)
request = service_pb2.ModelInferRequest(model_name="iris")
tensor = request.inputs.add(name="X", datatype="FP32", shape=IRIS.shape)
tensor.contents.fp32_contents.extend(IRIS.ravel().tolist())
answer = infer(request)
check("grpcio, typed contents: iris", answer.model_name == "iris_1" and len(answer.outputs) == 2)
del tensor.contents.fp32_contents[:]
tensor.ClearField("contents")
request.raw_input_contents.append(IRIS.tobytes())
raw = infer(request)
check("grpcio, typed contents are answered by typed ones", list(answer.outputs[0].contents.int64_contents) == [0, 2])
check("grpcio, raw contents by raw ones", list(np.frombuffer(raw.raw_output_contents[0], np.int64)) == [0, 2])

body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 4], "data": IRIS.ravel().tolist()}]}
post = urllib.request.Request(f"http://{URL}/v2/models/iris/infer", json.dumps(body).encode())
with urllib.request.urlopen(post) as reply:
    outputs = {output["name"]: output for output in json.load(reply)["outputs"]}
    check("plain HTTP: iris", outputs["label"]["data"] == [0, 2])
    check("plain HTTP: the route is told", reply.headers["x-seldon-route"] == ":iris_1:")
