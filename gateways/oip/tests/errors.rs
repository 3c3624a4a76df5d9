//! What is wrong with a message is said with the field's name, all of it at once.

use bytes::Bytes;
use messages::inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor};
use oip::{Datatype, InferRequest, TensorData};

fn json_error(inputs: &str) -> String {
    body_error(&format!(r#"{{"inputs":[{inputs}]}}"#), None)
}

fn body_error(body: &str, length: Option<usize>) -> String {
    let read = InferRequest::from_json(&Bytes::copy_from_slice(body.as_bytes()), length);
    read.expect_err(body).to_string()
}

#[test]
fn wrong_json_requests_are_refused_by_field() {
    let cases = [
        (
            r#"{"name":"x","shape":[2,3],"datatype":"FP32","data":[1,2,3,4,5]}"#,
            "inputs[0] 'x': shape [2,3] wants 6 elements, data has 5",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP31","data":[1]}"#,
            "inputs[0] 'x': unknown datatype 'FP31', the known ones are BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
        ),
        (
            r#"{"name":"x","shape":[2,-1],"datatype":"FP32","data":[1]}"#,
            "inputs[0] 'x': shape [2,-1] has the negative dimension -1",
        ),
        (
            r#"{"name":"x","shape":[4294967296,4294967296],"datatype":"FP32","data":[1]}"#,
            "inputs[0] 'x': shape [4294967296,4294967296] has more elements than can be counted",
        ),
        (
            r#"{"name":"x","shape":[4294967296],"datatype":"FP32","data":[1]}"#,
            "inputs[0] 'x': shape [4294967296] wants 4294967296 elements, data has 1",
        ),
        (
            r#"{"name":"x","shape":[99999999999999999999],"datatype":"FP32","data":[1]}"#,
            "inputs[0] 'x' shape: wants an array of whole numbers that fit 64 bits, found [99999999999999999999]",
        ),
        (
            r#"{"name":"x","shape":[2],"datatype":"INT8","data":[1,128]}"#,
            "inputs[0] 'x': element 1 is 128, which INT8 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"UINT64","data":[-1]}"#,
            "inputs[0] 'x': element 0 is -1, which UINT64 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"INT64","data":[1.5]}"#,
            "inputs[0] 'x': element 0 is 1.5, which INT64 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1e39]}"#,
            "inputs[0] 'x': element 0 is 1e39, which FP32 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP16","data":[65536]}"#,
            "inputs[0] 'x': element 0 is 65536, which FP16 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP64","data":[1e999]}"#,
            "inputs[0] 'x': element 0 is 1e999, which FP64 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP32","data":[null]}"#,
            "inputs[0] 'x': element 0 is null, which FP32 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP32","data":["1"]}"#,
            "inputs[0] 'x': element 0 is \"1\", which FP32 cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"BYTES","data":[1]}"#,
            "inputs[0] 'x': element 0 is 1, which BYTES cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"BOOL","data":[2]}"#,
            "inputs[0] 'x': element 0 is 2, which BOOL cannot hold",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP32","data":[{"a":1}]}"#,
            "inputs[0] 'x': wants an array of numbers, truth values or strings, found {\"a\":1}]",
        ),
        (r#"{"shape":[1],"datatype":"FP32","data":[1]}"#, "inputs[0].name: missing"),
        (r#"{"name":"x","datatype":"FP32","data":[1]}"#, "inputs[0] 'x' shape: missing"),
        (r#"{"name":"x","shape":[1],"data":[1]}"#, "inputs[0] 'x' datatype: missing"),
        (r#"{"name":"x","shape":[1],"datatype":"FP32"}"#, "inputs[0] 'x' data: missing"),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{"p":[1]}}"#,
            "inputs[0] 'x' parameters.p: wants a string, a truth value or a number, found [1]",
        ),
        (
            r#"{"name":"x","shape":[1],"datatype":"FP31","data":[1]},{"name":"y","shape":[2],"datatype":"INT8","data":[1]}"#,
            "inputs[0] 'x': unknown datatype 'FP31', the known ones are BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES; inputs[1] 'y': shape [2] wants 2 elements, data has 1",
        ),
        ("5", "inputs: not valid JSON: invalid type: integer `5`, expected an object"),
    ];
    for (inputs, text) in cases {
        assert_eq!(json_error(inputs), text, "{inputs}");
    }
}

#[test]
fn wrong_bodies_are_refused_with_line_and_column() {
    let cases = [
        ("", None, "not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("{\"inputs\":\n [}", None, "not valid JSON: expected value at line 2 column 3"),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}"#,
            None,
            "not valid JSON: expected value at line 1 column 62",
        ),
        ("{}", None, "inputs: missing"),
        (r#"{"inputs":7,"id":8}"#, None, "inputs: wants an array of objects, found 7; id: wants a string, found 8"),
        (
            r#"{"inputs":[]}"#,
            Some(99),
            "Inference-Header-Content-Length: the JSON part is said to have 99 bytes, the body has 13",
        ),
        (r#"{"inputs":[]}xyz"#, Some(13), "3 bytes of binary data belong to no tensor"),
    ];
    for (body, length, text) in cases {
        assert_eq!(body_error(body, length), text, "{body}");
    }
}

#[test]
fn wrong_binary_data_is_refused_by_field() {
    let header =
        r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":SIZE}DATA}]}"#;
    let check = |size: &str, data: &str, binary: &str, text: &str| {
        let json = header.replace("SIZE", size).replace("DATA", data);
        assert_eq!(body_error(&format!("{json}{binary}"), Some(json.len())), text);
    };
    check("8", "", "12345", "inputs[0] 'x': binary_data_size is 8, the body has 5 bytes left");
    check("-1", "", "12345", "inputs[0] 'x': binary_data_size is -1, the body has 5 bytes left");
    check("4", "", "1234", "inputs[0] 'x': shape [2] of FP32 wants 8 bytes, raw data has 4");
    check("8", "", "123456789", "1 bytes of binary data belong to no tensor");
    check("8", r#","data":[1,2]"#, "12345678", "inputs[0] 'x': has both data and raw contents, send one of them");
    check("\"8\"", "", "", "inputs[0] 'x' parameters.binary_data_size: wants a whole number, found String(\"8\")");
}

#[test]
fn wrong_protobuf_requests_are_refused_by_field() {
    let tensor = |datatype: &str, contents: InferTensorContents| InferInputTensor {
        name: "x".into(),
        datatype: datatype.into(),
        shape: vec![2],
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    let check = |tensor: InferInputTensor, raw: &[&'static [u8]], text: &str| {
        let raw_input_contents = raw.iter().map(|raw| Bytes::from_static(raw)).collect();
        let message = ModelInferRequest { inputs: vec![tensor], raw_input_contents, ..ModelInferRequest::default() };
        assert_eq!(InferRequest::from_proto(message).expect_err(text).to_string(), text);
    };
    let floats = || InferTensorContents { fp32_contents: vec![1.0, 2.0], ..InferTensorContents::default() };
    let integers =
        |values: &[i32]| InferTensorContents { int_contents: values.to_vec(), ..InferTensorContents::default() };
    let none = InferTensorContents::default;
    check(
        tensor("FP32", floats()),
        &[b"12345678"],
        "inputs[0] 'x': has both fp32_contents and raw contents, send one of them",
    );
    check(
        tensor("FP32", none()),
        &[b"12345678", b""],
        "raw_input_contents: 2 raw contents for 1 tensors, every tensor needs one",
    );
    check(tensor("FP32", none()), &[b"1234567"], "inputs[0] 'x': shape [2] of FP32 wants 8 bytes, raw data has 7");
    check(
        tensor("FP64", floats()),
        &[],
        "inputs[0] 'x': FP64 is carried in fp64_contents, but fp32_contents is filled",
    );
    check(tensor("INT8", integers(&[1, 200])), &[], "inputs[0] 'x': element 1 is 200, which INT8 cannot hold");
    check(tensor("INT32", integers(&[1])), &[], "inputs[0] 'x': shape [2] wants 2 elements, data has 1");
    check(tensor("FP32", none()), &[], "inputs[0] 'x': shape [2] wants 2 elements, data has 0");
    check(
        tensor("BYTES", none()),
        &[b"\x01\0\0\0a\x09\0\0\0b"],
        "inputs[0] 'x': raw BYTES data ends inside element 1: 13 bytes needed, 5 left",
    );
    check(
        tensor("BYTES", none()),
        &[b"\x01\0\0\0a\x01"],
        "inputs[0] 'x': raw BYTES data ends inside element 1: 4 bytes needed, 1 left",
    );
    check(tensor("BYTES", none()), &[b"\x01\0\0\0a"], "inputs[0] 'x': shape [2] wants 2 elements, data has 1");
    check(tensor("BOOL", none()), &[b"\x01\x02"], "inputs[0] 'x': element 1 is 2, which BOOL cannot hold");
    check(
        tensor("COMPLEX", none()),
        &[],
        "inputs[0] 'x': unknown datatype 'COMPLEX', the known ones are BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
    );
}

#[test]
fn nested_data_in_any_field_order_is_row_major() {
    let body = br#" {"parameters":null,"inputs":[{"data":[[1, 2.0],[3e0 ,4]] ,"shape":[2,2],"parameters":null,"datatype":"INT16","name":"x"}],"outputs":null,"id":null}"#;
    let request = InferRequest::from_json(&Bytes::from_static(body), None).expect("valid");
    let input = &request.inputs[0];
    assert_eq!((input.datatype(), input.shape()), (Datatype::Int16, [2, 2].as_slice()));
    assert_eq!(input.data(), &TensorData::Raw(Bytes::from_static(&[1, 0, 2, 0, 3, 0, 4, 0])));
}

#[test]
fn strings_with_escapes_are_read_as_text() {
    let body = br#"{"inputs":[{"name":"x","shape":[4],"datatype":"BYTES","data":["a\"b]","","\u00e9\\",","]}]}"#;
    let request = InferRequest::from_json(&Bytes::from_static(body), None).expect("valid");
    let texts = ["a\"b]", "", "é\\", ","].map(|text| Bytes::copy_from_slice(text.as_bytes()));
    assert_eq!(request.inputs[0].data(), &TensorData::Elements(texts.to_vec()));
}

#[test]
fn integers_keep_all_their_bits() {
    let body =
        br#"{"inputs":[{"name":"x","shape":[2],"datatype":"UINT64","data":[18446744073709551615,9007199254740993]}]}"#;
    let request = InferRequest::from_json(&Bytes::from_static(body), None).expect("valid");
    let raw: Bytes = [u64::MAX, 9_007_199_254_740_993].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(request.inputs[0].data(), &TensorData::Raw(raw));
}

#[test]
fn hostile_messages_get_short_errors() {
    let long = "n".repeat(100_000);
    let tensor =
        format!(r#"{{"name":"{long}","shape":[{}1],"datatype":"{long}","data":["{long}"]}},"#, "1,".repeat(1000));
    let text = json_error(tensor.repeat(20).trim_end_matches(','));
    assert!(text.len() < 5_000, "{}", text.len());
    let deep = format!(r#"{{"inputs":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(InferRequest::from_json(&deep.into(), None).is_err());
}
