//! The pinned wheels whose users do not own a constant for them. A new version means: download both files, compute
//! their sha256, run the tests of the users named here. (Envoy's pin is in the crate `envoy`.)

use super::Wheel;

/// Used by the built-in inference server, which loads `onnxruntime/capi/libonnxruntime.so.*` from it.
pub const ONNXRUNTIME: Wheel = Wheel {
    package: "onnxruntime",
    version: "1.32.0",
    files: &[
        ("manylinux_2_28_x86_64", "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8"),
        ("manylinux_2_28_aarch64", "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054"),
    ],
    instead: "set ORT_DYLIB_PATH to a libonnxruntime.so of version 1.22 or newer",
};

/// Used by the demo, for its models `rapidocr_onnxruntime/models/*.onnx`.
pub const RAPIDOCR: Wheel = Wheel {
    package: "rapidocr_onnxruntime",
    version: "1.4.4",
    files: &[("any", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")],
    instead: "start without --demo",
};

/// Used by the samples and tests, for its model `magika/models/standard_v3_3/model.onnx` with `config.min.json`
/// beside it.
pub const MAGIKA: Wheel = Wheel {
    package: "magika",
    version: "1.0.3",
    files: &[("any", "938d8e033953f2ddeb8c35dc423aa289ca116bfa7a71a778f6e77460f9025803")],
    instead: "put its model where the sample expects it",
};
