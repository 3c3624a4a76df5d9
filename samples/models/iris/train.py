#!/usr/bin/env python3
"""Trains the iris classifier and writes it as ONNX: train.py [--zipmap] FILE

The input X is FP32 [-1,4] (sepal length and width, petal length and width in cm); the outputs are label INT64 [-1] and
probabilities FP32 [-1,3]. With --zipmap the second output is a sequence of maps, the form skl2onnx gives by default.
"""
import sys

import numpy
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

OPSET = {"": 17, "ai.onnx.ml": 3}


def main():
    arguments = sys.argv[1:]
    zipmap = "--zipmap" in arguments
    path = arguments[-1]
    data, labels = load_iris(return_X_y=True)
    classifier = LogisticRegression(max_iter=500).fit(data.astype(numpy.float32), labels)
    model = to_onnx(
        classifier,
        initial_types=[("X", FloatTensorType([None, 4]))],
        options={id(classifier): {"zipmap": zipmap}},
        target_opset=OPSET,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


main()
