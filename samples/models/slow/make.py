#!/usr/bin/env python3
"""Writes a graph whose run time is an input: make.py FILE

The input rounds INT64 [1] says how many multiplications of 128x128 matrices are done one after the other; the output
result FP32 [1] is a number that depends on every one of them.
"""
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 128


def main():
    constants = [
        numpy_helper.from_array(numpy.array(True), "yes"),
        numpy_helper.from_array(numpy.array([SIZE, SIZE], numpy.int64), "square"),
        numpy_helper.from_array(numpy.array([1], numpy.int64), "one"),
        numpy_helper.from_array(numpy.array(0, numpy.int64), "zero"),
        numpy_helper.from_array(numpy.array(SIZE * SIZE, numpy.int64), "cells"),
        numpy_helper.from_array(numpy.array(1, numpy.int64), "step"),
        numpy_helper.from_array(numpy.array(0.15, numpy.float32), "scale"),
    ]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["current", "matrix"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["going"], ["still_going"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("current", TensorProto.FLOAT, [SIZE, SIZE]),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [SIZE, SIZE]),
        ],
    )
    nodes = [
        # The matrix, 0.15 sin(n * n), of full rank, is made in the graph, so that the file stays small.
        helper.make_node("Range", ["zero", "cells", "step"], ["numbers"]),
        helper.make_node("Mul", ["numbers", "numbers"], ["squares"]),
        helper.make_node("Cast", ["squares"], ["angles"], to=TensorProto.FLOAT),
        helper.make_node("Sin", ["angles"], ["sines"]),
        helper.make_node("Mul", ["sines", "scale"], ["row"]),
        helper.make_node("Reshape", ["row", "square"], ["matrix"]),
        helper.make_node("Gather", ["rounds", "zero"], ["count"], axis=0),
        helper.make_node("Loop", ["count", "yes", "matrix"], ["last"], body=body),
        helper.make_node("ReduceMean", ["last"], ["mean"], axes=[0, 1], keepdims=0),
        helper.make_node("Reshape", ["mean", "one"], ["result"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("rounds", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, [1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, sys.argv[1])


main()
