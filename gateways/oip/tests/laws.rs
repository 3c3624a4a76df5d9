//! Laws of the codec: converting there and back changes nothing, and rewriting equals decode, modify, encode.

use std::collections::BTreeMap;

use bytes::Bytes;
use messages::inference::{ModelInferRequest, ModelReadyRequest};
use oip::{
    Contents, Datatype, InferRequest, InferResponse, Metadata, Parameter, Parameters, RequestedOutput, Tensor,
    TensorData, TensorMetadata, TextStyle, peek_model_name, rewrite_model_name,
};
use proptest::{collection::vec, prelude::*};
use prost::Message;

fn parameters() -> impl Strategy<Value = Parameters> {
    let value = prop_oneof![
        any::<bool>().prop_map(Parameter::Bool),
        any::<i64>().prop_map(Parameter::Int),
        any::<String>().prop_map(Parameter::String),
    ];
    proptest::collection::btree_map("[a-z\"\\\\]{1,8}", value, 0..3)
}

/// Raw bytes without NaN, which is equal to nothing.
fn is_nan(datatype: Datatype, raw: &[u8]) -> bool {
    match datatype {
        Datatype::Fp16 => raw.as_chunks().0.iter().any(|b| half::f16::from_le_bytes(*b).is_nan()),
        Datatype::Bf16 => raw.as_chunks().0.iter().any(|b| half::bf16::from_le_bytes(*b).is_nan()),
        Datatype::Fp32 => raw.as_chunks().0.iter().any(|b| f32::from_le_bytes(*b).is_nan()),
        Datatype::Fp64 => raw.as_chunks().0.iter().any(|b| f64::from_le_bytes(*b).is_nan()),
        _ => false,
    }
}

fn tensor() -> impl Strategy<Value = Tensor> {
    let shape = vec(0_i64..4, 0..4);
    (proptest::sample::select(Datatype::ALL.to_vec()), shape, parameters(), any::<String>()).prop_flat_map(
        |(datatype, shape, parameters, name)| {
            let count: i64 = shape.iter().product();
            let count = usize::try_from(count).expect("small");
            let data = match datatype.width() {
                None => vec(any::<String>(), count)
                    .prop_map(|texts| TensorData::Elements(texts.into_iter().map(Bytes::from).collect()))
                    .boxed(),
                Some(_) if datatype == Datatype::Bool => {
                    vec(0_u8..2, count).prop_map(|raw| TensorData::Raw(raw.into())).boxed()
                }
                Some(width) => vec(any::<u8>(), count * width)
                    .prop_filter("NaN", move |raw| !is_nan(datatype, raw))
                    .prop_map(|raw| TensorData::Raw(raw.into()))
                    .boxed(),
            };
            data.prop_map(move |data| {
                Tensor::new(name.clone(), datatype, shape.clone(), data, parameters.clone()).expect("consistent")
            })
        },
    )
}

prop_compose! {
    fn request()(
        id in any::<String>(),
        parameters in parameters(),
        inputs in vec(tensor(), 1..4),
        outputs in vec((any::<String>(), parameters()).prop_map(|(name, parameters)| RequestedOutput { name, parameters }), 0..3),
    ) -> InferRequest {
        InferRequest { id, parameters, inputs, outputs, ..InferRequest::default() }
    }
}

proptest! {
    #[test]
    fn json_to_proto_to_json_changes_nothing(request in request(), binary in any::<bool>(), raw in any::<bool>()) {
        let json = request.to_json(TextStyle::Text, |_| binary);
        let read = InferRequest::from_json(&json.body, json.json_length).expect("own JSON");
        prop_assert_eq!(&read, &request);
        let contents = if raw { Contents::Raw } else { Contents::Typed };
        let encoded = read.into_proto(contents).encode_to_vec();
        let decoded = ModelInferRequest::decode(Bytes::from(encoded)).expect("own message");
        let back = InferRequest::from_proto(decoded).expect("own message");
        prop_assert_eq!(&back, &request);
        prop_assert_eq!(back.to_json(TextStyle::Text, |_| binary), json);
    }

    #[test]
    fn raw_and_typed_contents_are_the_same_answer(outputs in vec(tensor(), 0..4), name in any::<String>()) {
        let answer = InferResponse { model_name: name, outputs, ..InferResponse::default() };
        let raw = InferResponse::from_proto(answer.clone().into_proto(Contents::Raw)).expect("raw");
        let typed = InferResponse::from_proto(answer.clone().into_proto(Contents::Typed)).expect("typed");
        prop_assert_eq!(&raw, &typed);
        prop_assert_eq!(&raw, &answer);
        let json = answer.to_json(TextStyle::Text, |_| false);
        prop_assert_eq!(InferResponse::from_json(&json.body, None).expect("own JSON"), answer);
    }

    #[test]
    fn numbers_in_any_spelling_are_read_as_std_reads_them(
        texts in vec("-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,2})?", 1..20),
    ) {
        let raw32 = texts.iter().map(|text| text.parse::<f32>().expect("a number"));
        prop_assume!(raw32.clone().all(f32::is_finite));
        let raw32: Vec<u8> = raw32.flat_map(f32::to_le_bytes).collect();
        let raw64: Vec<u8> = texts.iter().flat_map(|text| text.parse::<f64>().expect("a number").to_le_bytes()).collect();
        for (datatype, raw) in [("FP32", raw32), ("FP64", raw64)] {
            let data = texts.join(",");
            let body = format!(r#"{{"inputs":[{{"name":"x","shape":[{}],"datatype":"{datatype}","data":[{data}]}}]}}"#, texts.len());
            let request = InferRequest::from_json(&body.into(), None).expect("valid");
            prop_assert_eq!(request.inputs[0].data(), &TensorData::Raw(raw.into()), "{} {}", datatype, data);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_crash(body in vec(any::<u8>(), 0..200), length in proptest::option::of(0_usize..250)) {
        let body = Bytes::from(body);
        let _ = InferRequest::from_json(&body, length);
        if let Ok(message) = ModelInferRequest::decode(body.clone()) {
            let _ = InferRequest::from_proto(message);
        }
        let name = peek_model_name(&body).is_ok();
        prop_assert_eq!(name, rewrite_model_name(&body, "m").is_ok());
    }

    #[test]
    fn rewriting_is_decoding_changing_and_encoding(
        request in request(), old in "[a-z]{0,200}", version in "[0-9]{0,3}", new in "[a-z]{0,200}", more in vec(("[a-z]{0,9}", any::<bool>()), 0..40),
    ) {
        let mut message = request.into_proto(Contents::Raw);
        message.model_name = old;
        message.model_version = version;
        let mut encoded = message.encode_to_vec();
        // Names again, between other fields: the last one counts, and readers merge the rest.
        for (name, with_parameter) in more {
            let mut again = ModelInferRequest { model_name: name, ..ModelInferRequest::default() };
            if with_parameter {
                again.raw_input_contents.push(Bytes::from_static(b"x"));
            }
            encoded.extend(again.encode_to_vec());
        }
        let encoded = Bytes::from(encoded);
        let mut decoded = ModelInferRequest::decode(encoded.clone()).expect("valid");
        prop_assert_eq!(peek_model_name(&encoded).expect("valid"), decoded.model_name.as_str());
        decoded.model_name.clone_from(&new);
        decoded.model_version.clear();
        let rewritten = rewrite_model_name(&encoded, &new).expect("valid");
        let mut bytes = rewritten.head.to_vec();
        rewritten.rest.iter().for_each(|piece| bytes.extend_from_slice(piece));
        prop_assert_eq!(bytes.len(), rewritten.len());
        prop_assert_eq!(ModelInferRequest::decode(Bytes::from(bytes)).expect("rewritten"), decoded);
    }
}

#[test]
fn rewriting_copies_no_body() {
    let message = ModelInferRequest {
        model_name: "iris".into(),
        model_version: "1".into(),
        raw_input_contents: vec![vec![7; 1_000_000].into()],
        ..ModelInferRequest::default()
    };
    let encoded = Bytes::from(message.encode_to_vec());
    let rewritten = rewrite_model_name(&encoded, "iris_3").expect("valid");
    assert_eq!(rewritten.rest.len(), 1);
    let piece = rewritten.rest[0].as_ptr_range();
    assert!(encoded.as_ptr_range().contains(&piece.start) && piece.end == encoded.as_ptr_range().end);
}

#[test]
fn ready_and_metadata_requests_are_rewritten_too() {
    let encoded = ModelReadyRequest { name: "iris".into(), version: "2".into() }.encode_to_vec();
    assert_eq!(peek_model_name(&encoded), Ok("iris"));
    let rewritten = rewrite_model_name(&encoded.into(), "iris_1").expect("valid");
    assert_eq!(
        ModelReadyRequest::decode(rewritten.head),
        Ok(ModelReadyRequest { name: "iris_1".into(), version: String::new() })
    );
    assert_eq!(rewritten.rest, Vec::<Bytes>::new());
}

#[test]
fn garbage_is_not_rewritten() {
    let cases: [(&[u8], &str); 8] = [
        (&[0x0a, 5, b'a'], "message ends inside the field at byte 0"),
        (&[0x0a], "message ends inside the field at byte 0"),
        (&[0x00, 0x01], "no field tag at byte 0"),
        (&[0x08, 1], "field 1 at byte 0 has the wire type 0, which these messages do not use"),
        (&[0x15, 0, 0, 0, 0], "field 2 at byte 0 has the wire type 5, which these messages do not use"),
        (&[0x0b], "field 1 at byte 0 has the wire type 3, which these messages do not use"),
        (&[0x0a, 1, 0xff], "field 1 at byte 0 is not valid UTF-8"),
        (&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "no field tag at byte 0"),
    ];
    for (bytes, text) in cases {
        assert_eq!(peek_model_name(bytes).expect_err("garbage").to_string(), text, "{bytes:?}");
        assert_eq!(rewrite_model_name(&Bytes::copy_from_slice(bytes), "m").expect_err("garbage").to_string(), text);
    }
}

#[test]
fn not_a_number_and_infinities_pass_through_json() {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e-45, f32::MAX, -0.0];
    let raw: Bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor::new("x", Datatype::Fp32, vec![7], TensorData::Raw(raw), BTreeMap::new()).expect("valid");
    let answer = InferResponse { outputs: vec![tensor], ..InferResponse::default() };
    let json = answer.to_json(TextStyle::Text, |_| false);
    assert!(std::str::from_utf8(&json.body).expect("text").contains(r#"["NaN","Infinity","-Infinity","#));
    assert_eq!(InferResponse::from_json(&json.body, None), Ok(answer));
}

#[test]
fn metadata_passes_through_json_and_proto() {
    let tensor = TensorMetadata { name: "X".into(), datatype: "FP32".into(), shape: vec![-1, 4] };
    let metadata = Metadata {
        name: "iris".into(),
        versions: vec!["1".into()],
        platform: "onnx".into(),
        inputs: vec![tensor.clone()],
        outputs: vec![tensor],
    };
    assert_eq!(Metadata::from_json(&metadata.to_json()), Ok(metadata.clone()));
    assert_eq!(Metadata::from_proto(metadata.clone().into_proto()), metadata);
}

#[test]
fn bytes_that_are_no_text_become_base64_and_say_so() {
    let data = TensorData::Elements(vec![Bytes::from_static(b"a"), Bytes::from_static(&[0xff])]);
    let tensor = Tensor::new("x", Datatype::Bytes, vec![2], data, BTreeMap::new()).expect("valid");
    let answer = InferResponse { outputs: vec![tensor], ..InferResponse::default() };
    let json = answer.to_json(TextStyle::Text, |_| false).body;
    let text = r#"{"model_name":"","outputs":[{"name":"x","shape":[2],"datatype":"BYTES","parameters":{"content_type":"base64"},"data":["YQ==","/w=="]}]}"#;
    assert_eq!(std::str::from_utf8(&json), Ok(text));
}

/// `spec/data-plane.md` row 87, which pipelines keep to.
#[test]
fn in_the_style_of_pipelines_bytes_are_base64_unless_they_say_that_they_are_text() {
    let tensor = |content_type: Option<&str>| {
        let parameters = content_type.map(|text| ("content_type".to_owned(), Parameter::String(text.to_owned())));
        let data = TensorData::Elements(vec![Bytes::from_static(b"text")]);
        let parameters = parameters.into_iter().collect();
        let tensor = Tensor::new("x", Datatype::Bytes, vec![1], data, parameters).expect("a tensor");
        let response = InferResponse { outputs: vec![tensor], ..InferResponse::default() };
        String::from_utf8_lossy(&response.to_json(TextStyle::Base64, |_| false).body).into_owned()
    };
    assert!(tensor(Some("str")).contains(r#""data":["text"]"#));
    assert!(tensor(Some("datetime")).contains(r#""data":["text"]"#));
    assert!(tensor(None).contains(r#""data":["dGV4dA=="]"#));
    assert!(tensor(Some("image/png")).contains(r#""data":["dGV4dA=="]"#));
}
