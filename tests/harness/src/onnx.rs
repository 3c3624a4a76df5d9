//! Small models for tests, written as ONNX files: a graph of elementwise operators, without any library.
//!
//! Field numbers: `onnx.proto` of ONNX (IR version 8, operator set 13).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Types of elements that are used here, with ONNX's numbers.
#[derive(Clone, Copy, Debug)]
pub enum Element {
    /// 32-bit floats.
    Float = 1,
    /// 32-bit integers.
    Int32 = 6,
    /// 64-bit integers.
    Int64 = 7,
}

/// A graph under construction.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    body: Vec<u8>,
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

impl Graph {
    fn value(mut self, field: u64, name: &str, element: Element, dimensions: &[&str]) -> Self {
        let mut shape = Vec::new();
        for dimension in dimensions {
            let mut one = Vec::new();
            match dimension.parse() {
                Ok(size) => number(&mut one, 1, size),
                Err(_) => bytes(&mut one, 2, dimension.as_bytes()),
            }
            bytes(&mut shape, 1, &one);
        }
        let mut tensor = Vec::new();
        number(&mut tensor, 1, element as u64);
        bytes(&mut tensor, 2, &shape);
        let (mut kind, mut value) = (Vec::new(), Vec::new());
        bytes(&mut kind, 1, &tensor);
        bytes(&mut value, 1, name.as_bytes());
        bytes(&mut value, 2, &kind);
        bytes(&mut self.body, field, &value);
        self
    }

    /// An input; dimensions are numbers or names.
    #[must_use]
    pub fn input(self, name: &str, element: Element, dimensions: &[&str]) -> Self {
        self.value(11, name, element, dimensions)
    }

    /// An output.
    #[must_use]
    pub fn output(self, name: &str, element: Element, dimensions: &[&str]) -> Self {
        self.value(12, name, element, dimensions)
    }

    /// A constant with one float.
    #[must_use]
    pub fn float(self, name: &str, value: f32) -> Self {
        self.constant(name, Element::Float, &[], &value.to_le_bytes())
    }

    /// A constant vector of 64-bit integers.
    #[must_use]
    pub fn int64s(self, name: &str, values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, Element::Int64, &[values.len() as u64], &raw)
    }

    fn constant(mut self, name: &str, element: Element, shape: &[u64], raw: &[u8]) -> Self {
        let mut tensor = Vec::new();
        shape.iter().for_each(|size| number(&mut tensor, 1, *size));
        number(&mut tensor, 2, element as u64);
        bytes(&mut tensor, 8, name.as_bytes());
        bytes(&mut tensor, 9, raw);
        bytes(&mut self.body, 5, &tensor);
        self
    }

    /// An operator without attributes.
    #[must_use]
    pub fn node(self, operator: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        self.node_with(operator, inputs, outputs, &[])
    }

    /// An operator with attributes that are integers.
    #[must_use]
    pub fn node_with(mut self, operator: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, u64)]) -> Self {
        const INT: u64 = 2;
        let mut node = Vec::new();
        inputs.iter().for_each(|name| bytes(&mut node, 1, name.as_bytes()));
        outputs.iter().for_each(|name| bytes(&mut node, 2, name.as_bytes()));
        bytes(&mut node, 4, operator.as_bytes());
        for (name, value) in attributes {
            let mut attribute = Vec::new();
            bytes(&mut attribute, 1, name.as_bytes());
            number(&mut attribute, 3, *value);
            number(&mut attribute, 20, INT);
            bytes(&mut node, 5, &attribute);
        }
        bytes(&mut self.body, 1, &node);
        self
    }

    /// Writes `model.onnx` into a new folder of that name; gives the folder.
    pub fn write(mut self, parent: &Path, name: &str) -> Result<PathBuf> {
        bytes(&mut self.body, 2, name.as_bytes());
        let mut operators = Vec::new();
        bytes(&mut operators, 1, b"");
        number(&mut operators, 2, 13);
        let mut model = Vec::new();
        number(&mut model, 1, 8);
        bytes(&mut model, 7, &self.body);
        bytes(&mut model, 8, &operators);
        let folder = parent.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        std::fs::write(folder.join("model.onnx"), model).context("write the model")?;
        Ok(folder)
    }
}

/// The models that the samples of pipelines use, by the names and with the tensors of the compatible system's samples:
/// `add10`, `mul10` (INPUT → OUTPUT), `tfsimple1` to `tfsimple3` (INPUT0, INPUT1 → OUTPUT0 sum, OUTPUT1 difference),
/// `conditional` (CHOICE, INPUT0, INPUT1 → OUTPUT0 with 0, OUTPUT1 with 1; the other one is empty), `revise` (X → REVISE
/// or ACCEPT, whichever is not empty, with X one larger; it accepts from 3 on), `exact` (INT64 as it is) and `fails`, whose shapes never fit.
pub fn samples(parent: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    const N: &[&str] = &["n"];
    let mut made = Vec::new();
    for (name, operator, by) in [("add10", "Add", 10.0), ("mul10", "Mul", 10.0), ("add20", "Add", 20.0)] {
        let graph = Graph::default().input("INPUT", Element::Float, N).output("OUTPUT", Element::Float, N);
        made.push((name, graph.float("by", by).node(operator, &["INPUT", "by"], &["OUTPUT"]).write(parent, name)?));
    }
    for name in ["tfsimple1", "tfsimple2", "tfsimple3"] {
        let mut graph = Graph::default();
        for input in ["INPUT0", "INPUT1"] {
            graph = graph.input(input, Element::Int32, &["1", "n"]);
        }
        for (output, operator) in [("OUTPUT0", "Add"), ("OUTPUT1", "Sub")] {
            graph = graph.output(output, Element::Int32, &["1", "n"]).node(operator, &["INPUT0", "INPUT1"], &[output]);
        }
        made.push((name, graph.write(parent, name)?));
    }
    // Rows are kept by a condition of one element each: everything or nothing.
    let conditional = Graph::default()
        .input("CHOICE", Element::Int32, &["1"])
        .input("INPUT0", Element::Float, N)
        .input("INPUT1", Element::Float, N)
        .output("OUTPUT0", Element::Float, &["m"])
        .output("OUTPUT1", Element::Float, &["k"])
        .node_with("Cast", &["CHOICE"], &["second"], &[("to", 9)])
        .node("Not", &["second"], &["first"])
        .node("Shape", &["INPUT0"], &["shape0"])
        .node("Shape", &["INPUT1"], &["shape1"])
        .node("Expand", &["first", "shape0"], &["keep0"])
        .node("Expand", &["second", "shape1"], &["keep1"])
        .node_with("Compress", &["INPUT0", "keep0"], &["OUTPUT0"], &[("axis", 0)])
        .node_with("Compress", &["INPUT1", "keep1"], &["OUTPUT1"], &[("axis", 0)]);
    made.push(("conditional", conditional.write(parent, "conditional")?));
    let revise = Graph::default()
        .input("X", Element::Float, &["1"])
        .output("REVISE", Element::Float, &["r"])
        .output("ACCEPT", Element::Float, &["a"])
        .float("one", 1.0)
        .float("limit", 3.0)
        .node("Add", &["X", "one"], &["next"])
        .node("Less", &["next", "limit"], &["again"])
        .node("Not", &["again"], &["done"])
        .node_with("Compress", &["next", "again"], &["REVISE"], &[("axis", 0)])
        .node_with("Compress", &["next", "done"], &["ACCEPT"], &[("axis", 0)]);
    made.push(("revise", revise.write(parent, "revise")?));
    let exact = Graph::default().input("INPUT", Element::Int64, N).output("OUTPUT", Element::Int64, N);
    made.push(("exact", exact.node("Identity", &["INPUT"], &["OUTPUT"]).write(parent, "exact")?));
    let fails = Graph::default()
        .input("INPUT", Element::Float, N)
        .output("OUTPUT", Element::Float, &["o"])
        .int64s("shape", &[3, 5, 7])
        .node("Reshape", &["INPUT", "shape"], &["reshaped"])
        .int64s("flat", &[-1])
        .node("Reshape", &["reshaped", "flat"], &["OUTPUT"]);
    made.push(("fails", fails.write(parent, "fails")?));
    Ok(made)
}
