//! onnx-server
