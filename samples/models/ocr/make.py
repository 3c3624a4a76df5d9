"""Writes the small graphs between the two models of the package rapidocr-onnxruntime, and the pictures of the demo.

Usage: make.py <folder of the unpacked wheel>, with the packages onnx, numpy, Pillow and matplotlib (for its fonts).

The package's models keep the names that their authors gave their tensors, so the graphs here use them, too: FACING is
what `direction` answers, CHARS what `read` answers. One line of text is 48 pixels high for all of them.
"""

import pathlib
import sys

import matplotlib
import numpy as np
import onnx
from onnx import TensorProto as Type
from onnx import helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont

HERE = pathlib.Path(__file__).parent
FACING = "save_infer_model/scale_0.tmp_1"
CHARS = "softmax_11.tmp_0"
HEIGHT = 48
CROP = 192  # width that `direction` looks at
NARROWEST = 320  # width that `read` was trained with
CLASSES = 6625  # blank, the characters of the model, space
LINE = ["N", 3, HEIGHT, "L"]


class Graph:
    """A graph under construction; `add` gives the name of an operator's result."""

    def __init__(self, opset=13):
        self.opset, self.nodes, self.constants, self.inputs, self.outputs = opset, [], [], [], []

    def input(self, name, element, shape):
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, name, element, shape):
        self.outputs.append(helper.make_tensor_value_info(name, element, shape))

    def constant(self, value):
        name = f"constant{len(self.constants)}"
        if isinstance(value, list):
            tensor = helper.make_tensor(name, Type.STRING, [len(value)], [text.encode() for text in value])
        else:
            tensor = numpy_helper.from_array(np.array(value), name)
        self.constants.append(tensor)
        return name

    def ints(self, *values):
        return self.constant(np.array(values, np.int64))

    def add(self, operator, *inputs, name=None, **attributes):
        name = name or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def part(self, value, start, end, axis):
        return self.add("Slice", value, self.ints(start), self.ints(end), self.ints(axis))

    def write(self, name):
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        version = 9 if self.opset > 18 else 8
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version)
        onnx.checker.check_model(model, full_check=True)
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        onnx.save(model, folder / "model.onnx")


def prepare():
    """A picture of any size becomes the line that `read` reads and the crop that `direction` looks at."""
    g = Graph()
    picture = g.add("Unsqueeze", g.input("image", Type.UINT8, ["H", "W", 3]), g.ints(0))
    picture = g.add("Cast", picture, to=Type.FLOAT)
    picture = g.add("Gather", picture, g.ints(2, 1, 0), axis=3)  # blue first, as the models were trained
    picture = g.add("Transpose", picture, perm=[0, 3, 1, 2])
    shape = g.add("Shape", picture)
    channels, high, wide = (g.part(shape, start, end, 0) for start, end in ((0, 2), (2, 3), (3, 4)))
    scaled = g.add("Mul", wide, g.ints(HEIGHT))
    below = g.add("Div", scaled, high)
    above = g.add("Div", g.add("Sub", g.add("Add", scaled, high), g.ints(1)), high)
    line_width = g.add("Min", above, g.add("Max", below, g.ints(NARROWEST)))
    crop_width = g.add("Min", above, g.ints(CROP))

    def resized(width, name=None):
        size = g.add("Concat", channels, g.ints(HEIGHT), width, axis=0)
        pixels = g.add("Resize", picture, "", "", size, mode="linear", coordinate_transformation_mode="half_pixel")
        scaled = g.add("Div", pixels, g.constant(np.float32(127.5)))
        return g.add("Sub", scaled, g.constant(np.float32(1)), name=name)

    resized(line_width, name="line")
    missing = g.add("Sub", g.ints(CROP), crop_width)
    pads = g.add("Concat", g.ints(0, 0, 0, 0, 0, 0, 0), missing, axis=0)
    g.add("Pad", resized(crop_width), pads, g.constant(np.float32(0)), name="crop")
    g.output("line", Type.FLOAT, [1, 3, HEIGHT, "L"])
    g.output("crop", Type.FLOAT, [1, 3, HEIGHT, CROP])
    g.write("prepare")


def turned(g, line):
    last, first = g.ints(-1, -1), g.ints(-(2**31), -(2**31))
    return g.add("Slice", line, last, first, g.ints(2, 3), last)


def widened(g, line):
    """At least as wide as `read` wants it."""
    width = g.part(g.add("Shape", line), 3, 4, 0)
    missing = g.add("Max", g.add("Sub", g.ints(NARROWEST), width), g.ints(0))
    pads = g.add("Concat", g.ints(0, 0, 0, 0, 0, 0, 0), missing, axis=0)
    g.add("Pad", line, pads, g.constant(np.float32(0)), name="upright")
    g.output("upright", Type.FLOAT, ["N", 3, HEIGHT, "P"])


def is_upside_down(g, name=None):
    facing = g.input(FACING, Type.FLOAT, ["N", 2])
    probability = g.add("Gather", facing, g.constant(np.int64(1)), axis=1)
    return g.add("Greater", probability, g.constant(np.float32(0.5)), name=name)


def turn():
    """Turns the lines that are upside down."""
    g = Graph()
    line = g.input("line", Type.FLOAT, LINE)
    is_turned = g.add("Reshape", is_upside_down(g, "turned"), g.ints(-1, 1, 1, 1))
    widened(g, g.add("Where", is_turned, turned(g, line), line))
    g.output("turned", Type.BOOL, ["N"])
    g.write("turn")


def route():
    """Upright lines go one way, the others another one; the way not taken has no rows."""
    g = Graph()
    line = g.input("line", Type.FLOAT, LINE)
    is_turned = is_upside_down(g)
    g.add("Compress", line, g.add("Not", is_turned), name="straight", axis=0)
    g.add("Compress", line, is_turned, name="upside", axis=0)
    g.output("straight", Type.FLOAT, ["A", 3, HEIGHT, "L"])
    g.output("upside", Type.FLOAT, ["B", 3, HEIGHT, "L"])
    g.write("route")


def keep():
    """The way of the upright lines."""
    g = Graph()
    widened(g, g.input("line", Type.FLOAT, LINE))
    g.write("keep")


def flip():
    """The way of the lines that are upside down."""
    g = Graph()
    widened(g, turned(g, g.input("line", Type.FLOAT, LINE)))
    g.write("flip")


def decode(characters):
    """The most likely character of each column, repeats and blanks left out, joined to a text; and how sure that is."""
    g = Graph(opset=20)
    chars = g.input(CHARS, Type.FLOAT, ["N", "T", CLASSES])
    blank, space = g.constant(np.int64(0)), g.constant(np.int64(CLASSES - 1))
    best = g.add("ArgMax", chars, axis=2, keepdims=0)
    likely = g.add("ReduceMax", chars, g.ints(2), keepdims=0)
    before = g.part(g.add("Pad", best, g.ints(0, 1, 0, 0), blank), 0, -1, 1)
    is_new = g.add("Not", g.add("Equal", best, before))
    is_kept = g.add("And", is_new, g.add("Not", g.add("Equal", best, blank)))
    ids = g.add("Where", is_kept, best, blank)
    # A space stays only between letters.
    is_letter = g.add("And", g.add("Greater", ids, blank), g.add("Less", ids, space))
    letters = g.add("Cast", is_letter, to=Type.INT32)
    one, none = g.constant(np.int64(1)), g.constant(np.int32(0))
    has_before = g.add("Greater", g.add("CumSum", letters, one), none)
    has_after = g.add("Greater", g.add("CumSum", letters, one, reverse=1), none)
    ids = g.add("Where", g.add("And", has_before, has_after), ids, blank)
    weight = g.add("Cast", is_kept, to=Type.FLOAT)
    count = g.add("Max", g.add("ReduceSum", weight, g.ints(1), keepdims=0), g.constant(np.float32(1)))
    sure = g.add("ReduceSum", g.add("Mul", likely, weight), g.ints(1), keepdims=0)
    g.add("Div", sure, count, name="score")
    texts = g.add("Gather", g.constant(characters), ids, axis=0)
    shape = g.add("Shape", ids)
    rows, columns = g.part(shape, 0, 1, 0), g.add("Squeeze", g.part(shape, 1, 2, 0))
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Gather", [texts, "column"], ["next"], axis=1),
            helper.make_node("StringConcat", ["so_far", "next"], ["longer"]),
        ],
        "join",
        [
            helper.make_tensor_value_info("column", Type.INT64, []),
            helper.make_tensor_value_info("go", Type.BOOL, []),
            helper.make_tensor_value_info("so_far", Type.STRING, ["N"]),
        ],
        [
            helper.make_tensor_value_info("go_on", Type.BOOL, []),
            helper.make_tensor_value_info("longer", Type.STRING, ["N"]),
        ],
    )
    empty = g.add("Expand", g.constant([""]), rows)
    g.add("Loop", columns, g.constant(np.bool_(True)), empty, name="text", body=body)
    g.output("text", Type.STRING, ["N"])
    g.output("score", Type.FLOAT, ["N"])
    g.write("decode")


def picture(name, text, font, upside_down):
    """A line of text as a PGM file, which is grey values behind three lines of ASCII."""
    fonts = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font, margin = ImageFont.truetype(str(fonts / font), 32), 8
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (right - left + 2 * margin, bottom - top + 2 * margin), 255)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=0, font=font)
    if upside_down:
        image = image.transpose(Image.Transpose.ROTATE_180)
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    image.save(folder / f"{name}.pgm")


def main():
    models = pathlib.Path(sys.argv[1]) / "rapidocr_onnxruntime" / "models"
    read = onnx.load(models / "ch_PP-OCRv4_rec_infer.onnx", load_external_data=False)
    characters = {entry.key: entry.value for entry in read.metadata_props}["character"].split("\n")
    for make in (prepare, turn, route, keep, flip):
        make()
    decode(["", *characters, " "])
    picture("upright", "Departure 18:45", "DejaVuSerif.ttf", False)
    picture("upside-down", "Handle with care", "DejaVuSans-Bold.ttf", True)


main()
