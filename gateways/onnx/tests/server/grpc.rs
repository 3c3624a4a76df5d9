//! gRPC: the whole service, raw and typed contents, streams, and status codes.

use bytes::Bytes;
use messages::inference::{
    ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest, ServerMetadataRequest,
    ServerReadyRequest,
};
use oip::{Contents, InferRequest, InferResponse};
use tonic::{Code, Request, metadata::MetadataValue};

use crate::harness::{DEADLINE, IRIS, SAMPLES, Server, identity_body, sample};

fn message(model: &str, body: &str, contents: Contents) -> ModelInferRequest {
    let mut request = InferRequest::from_json(&Bytes::copy_from_slice(body.as_bytes()), None).expect("valid");
    request.model_name = model.to_owned();
    request.into_proto(contents)
}

#[tokio::test(flavor = "multi_thread")]
async fn iris_is_classified() {
    let server = Server::with(&["iris"]).await;
    let mut request = Request::new(message("iris", IRIS, Contents::Raw));
    request.metadata_mut().insert("x-request-id", MetadataValue::from_static("r-2"));
    let answer = server.grpc().await.model_infer(request).await.expect("an answer");
    assert_eq!(answer.metadata().get("x-request-id").map(|id| id.as_bytes()), Some(b"r-2".as_slice()));
    let answer = answer.into_inner();
    assert_eq!((answer.model_name.as_str(), answer.model_version.as_str(), answer.id.as_str()), ("iris", "1", "7"));
    let labels: Bytes = [1_i64, 0].iter().flat_map(|label| label.to_le_bytes()).collect();
    assert_eq!(answer.raw_output_contents[0], labels);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_passes_raw_and_typed() {
    let server = Server::with(&["identity"]).await;
    let mut client = server.grpc().await;
    for (datatype, elements) in SAMPLES {
        for contents in [Contents::Raw, Contents::Typed] {
            let sent = message("identity", &identity_body(datatype, elements), contents);
            let answer = client.model_infer(sent.clone()).await.expect("an answer").into_inner();
            assert_eq!(answer.raw_output_contents.is_empty(), contents == Contents::Typed);
            let got = InferResponse::from_proto(answer).expect("valid");
            let sent = InferRequest::from_proto(sent).expect("valid");
            let sent = sent.inputs.iter().find(|input| input.name == format!("in_{datatype}")).expect("sent");
            assert_eq!((got.outputs.len(), got.outputs[0].data()), (1, sent.data()), "{datatype} {contents:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_model_describe_themselves() {
    let server = Server::with(&["iris"]).await;
    let mut client = server.grpc().await;
    assert!(client.server_live(ServerLiveRequest {}).await.expect("an answer").into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.expect("an answer").into_inner().ready);
    let about = client.server_metadata(ServerMetadataRequest {}).await.expect("an answer").into_inner();
    assert_eq!(about.extensions, ["binary_tensor_data", "model_repository"]);
    let ready = |name: &str| ModelReadyRequest { name: name.into(), version: String::new() };
    assert!(client.model_ready(ready("iris")).await.expect("an answer").into_inner().ready);
    assert!(!client.model_ready(ready("nosuch")).await.expect("an answer").into_inner().ready);
    let request = ModelMetadataRequest { name: "iris".into(), version: "1".into() };
    let metadata = client.model_metadata(request).await.expect("an answer").into_inner();
    assert_eq!((metadata.platform.as_str(), metadata.inputs[0].shape.as_slice()), ("onnx", [-1, 4].as_slice()));
    let request = ModelMetadataRequest { name: "nosuch".into(), version: String::new() };
    assert_eq!(client.model_metadata(request).await.expect_err("unknown").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_the_status_of_their_kind() {
    const LIMIT: usize = 100_000;
    let server = Server::start(|config| config.max_message_bytes = LIMIT).await;
    for model in ["iris", "identity"] {
        server.add(model, &sample(model));
        server.post(&format!("/v2/repository/models/{model}/load"), "").await;
    }
    let mut client = server.grpc().await;
    let iris = || message("iris", IRIS, Contents::Raw);
    let broken_text = || {
        let mut request = message("identity", &identity_body("BYTES", r#"["a","b","c"]"#), Contents::Raw);
        let raw = request.raw_input_contents.last_mut().expect("BYTES");
        *raw = Bytes::from_static(b"\x01\0\0\0a\x01\0\0\0\xff\x00\0\0\0");
        request
    };
    let cases = [
        (ModelInferRequest { model_name: "nosuch".into(), ..iris() }, Code::NotFound, "model 'nosuch' is not loaded"),
        (
            ModelInferRequest { model_version: "2".into(), ..iris() },
            Code::NotFound,
            "model 'iris' has the version 1 only, not '2'",
        ),
        (
            ModelInferRequest { raw_input_contents: vec![Bytes::from_static(b"1234567")], ..iris() },
            Code::InvalidArgument,
            "inputs[0] 'X': shape [2,4] of FP32 wants 32 bytes, raw data has 7",
        ),
        (
            ModelInferRequest { inputs: Vec::new(), raw_input_contents: Vec::new(), ..iris() },
            Code::InvalidArgument,
            "inputs 'X': missing, the model takes X FP32 [-1, 4]",
        ),
        (broken_text(), Code::InvalidArgument, "inputs 'in_BYTES': element 1 is not UTF-8, as ONNX strings are"),
        (
            ModelInferRequest { raw_input_contents: vec![vec![0; LIMIT].into()], ..iris() },
            Code::ResourceExhausted,
            "Error, decoded message length too large: found 100028 bytes, the limit is: 100000 bytes",
        ),
    ];
    for (request, code, text) in cases {
        let status = client.model_infer(request.clone()).await.expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text));
        // A stream ends with the same status.
        let mut answers =
            client.model_stream_infer(tokio_stream::iter([request])).await.expect("a stream").into_inner();
        let status = answers.message().await.expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text));
    }
    client.model_infer(iris()).await.expect("still works");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_in_order_and_ends_with_the_first_failure() {
    let server = Server::with(&["iris"]).await;
    let with_id = |id: &str| ModelInferRequest { id: id.into(), ..message("iris", IRIS, Contents::Raw) };
    let wrong = ModelInferRequest { inputs: Vec::new(), raw_input_contents: Vec::new(), ..with_id("c") };
    let requests = [with_id("a"), with_id("b"), wrong, with_id("d")];
    let mut client = server.grpc().await;
    let mut answers = client.model_stream_infer(tokio_stream::iter(requests)).await.expect("a stream").into_inner();
    for id in ["a", "b"] {
        assert_eq!(answers.message().await.expect("an answer").expect("not the end").id, id);
    }
    assert_eq!(answers.message().await.expect_err("the wrong one").code(), Code::InvalidArgument);

    let mut answers =
        client.model_stream_infer(tokio_stream::iter([with_id("e")])).await.expect("a stream").into_inner();
    assert_eq!(answers.message().await.expect("an answer").expect("not the end").id, "e");
    assert!(answers.message().await.expect("a good end").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_nobody_waits_for_ends() {
    let server = Server::with(&["slow"]).await;
    let rounds = |rounds: i64| {
        let body = format!(r#"{{"inputs":[{{"name":"rounds","shape":[1],"datatype":"INT64","data":[{rounds}]}}]}}"#);
        message("slow", &body, Contents::Typed)
    };
    // Half a day of work: the next request could not be answered if it went on.
    let mut request = Request::new(rounds(2_000_000_000));
    request.set_timeout(std::time::Duration::from_millis(100));
    let mut client = server.grpc().await;
    client.model_infer(request).await.expect_err("too long");
    let next = tokio::time::timeout(DEADLINE, client.model_infer(rounds(1))).await.expect("in time");
    assert_eq!(next.expect("an answer").into_inner().outputs[0].shape, [1]);
}
