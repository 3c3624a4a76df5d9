//! REST: paths, bodies, binary tensors, and what every wrong request is told.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use oip::{InferRequest, InferResponse, TextStyle};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{DEADLINE, IRIS, SAMPLES, Server, data, identity_body};

#[tokio::test(flavor = "multi_thread")]
async fn iris_is_classified() {
    let server = Server::with(&["iris"]).await;
    let mut request = server.request(Method::POST, "/v2/models/iris/infer", IRIS.into());
    request.headers_mut().insert("x-request-id", HeaderValue::from_static("r-1"));
    let answer = server.send(request).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    assert_eq!(answer.header("x-request-id"), "r-1");
    let body = answer.json();
    assert_eq!((&body["model_name"], &body["model_version"], &body["id"]), (&json!("iris"), &json!("1"), &json!("7")));
    assert_eq!(body["outputs"][0], json!({"name": "label", "shape": [2], "datatype": "INT64", "data": [1, 0]}));
    let probabilities = body["outputs"][1]["data"].as_array().expect("numbers");
    assert_eq!((&body["outputs"][1]["shape"], probabilities.len()), (&json!([2, 3]), 6));

    let versioned = server.post("/v2/models/iris/versions/1/infer", IRIS).await;
    assert_eq!(versioned.json(), body);
    let only = IRIS.replace(r#""inputs""#, r#""outputs":[{"name":"probabilities"}],"inputs""#);
    let only = server.post("/v2/models/iris/infer", only).await.json();
    assert_eq!(only["outputs"], json!([body["outputs"][1]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_works_over_http2_with_prior_knowledge() {
    let server = Server::with(&["iris"]).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let answer = server.send_by(&client, server.request(Method::POST, "/v2/models/iris/infer", IRIS.into())).await;
    assert_eq!(answer.json()["outputs"][0]["data"], json!([1, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_model_describe_themselves() {
    let server = Server::with(&["iris"]).await;
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/iris/ready", "/v2/models/iris/versions/1/ready"] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}");
    }
    let about = server.get("/v2").await.json();
    assert_eq!(
        (&about["name"], &about["extensions"]),
        (&json!("switchyard-onnx"), &json!(["binary_tensor_data", "model_repository"]))
    );
    let metadata = json!({
        "name": "iris", "versions": ["1"], "platform": "onnx",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}, {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    });
    assert_eq!(server.get("/v2/models/iris").await.json(), metadata);
    assert_eq!(server.get("/v2/models/iris/versions/1").await.json(), metadata);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_passes_in_json() {
    let server = Server::with(&["identity"]).await;
    for (datatype, elements) in SAMPLES {
        let answer = server.post("/v2/models/identity/infer", identity_body(datatype, elements)).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        let sent = InferRequest::from_json(&identity_body(datatype, elements).into(), None).expect("valid");
        let got = InferResponse::from_json(&answer.body, None).expect("valid");
        let sent = sent.inputs.iter().find(|input| input.name == format!("in_{datatype}")).expect("sent");
        assert_eq!(
            (got.outputs[0].name.as_str(), got.outputs[0].data()),
            (format!("out_{datatype}").as_str(), sent.data())
        );
        assert_eq!(got.outputs.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_passes_as_binary_data() {
    let server = Server::with(&["identity"]).await;
    for (datatype, elements) in SAMPLES {
        let text = identity_body(datatype, elements)
            .replace(r#""outputs""#, r#""parameters":{"binary_data_output":true},"outputs""#);
        let sent = InferRequest::from_json(&text.into(), None).expect("valid");
        let body = sent.to_json(TextStyle::Text, |_| true);
        let mut request = server.request(Method::POST, "/v2/models/identity/infer", body.body);
        let length = HeaderValue::from(body.json_length.expect("binary"));
        request.headers_mut().insert("inference-header-content-length", length);
        let answer = server.send(request).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        let length = answer.header("inference-header-content-length").parse().expect("a length");
        let got = InferResponse::from_json(&answer.body, Some(length)).expect("valid");
        let sent = sent.inputs.iter().find(|input| input.name == format!("in_{datatype}")).expect("sent");
        assert_eq!(got.outputs[0].raw(), sent.raw());
        assert!(answer.body.ends_with(&sent.raw()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_outputs_asked_for_as_binary_are_binary() {
    let server = Server::with(&["iris"]).await;
    let outputs = r#""outputs":[{"name":"label","parameters":{"binary_data":true}},{"name":"probabilities"}],"inputs""#;
    let answer = server.post("/v2/models/iris/infer", IRIS.replace(r#""inputs""#, outputs)).await;
    let length: usize = answer.header("inference-header-content-length").parse().expect("a length");
    assert_eq!(answer.body.len() - length, 16);
    let all = IRIS.replace(r#""inputs""#, r#""parameters":{"binary_data_output":true},"inputs""#);
    let answer = server.post("/v2/models/iris/infer", all).await;
    let length: usize = answer.header("inference-header-content-length").parse().expect("a length");
    assert_eq!(answer.body.len() - length, 16 + 24);
}

#[tokio::test(flavor = "multi_thread")]
async fn score_maps_become_a_tensor() {
    let server = Server::with(&["iris"]).await;
    server.add_file("zipmap/model.onnx", &data("zipmap.onnx"));
    assert_eq!(server.post("/v2/repository/models/zipmap/load", "{}").await.status, StatusCode::OK);
    let plain = server.post("/v2/models/iris/infer", IRIS).await.json();
    let maps = server.post("/v2/models/zipmap/infer", IRIS).await.json();
    assert_eq!(maps["outputs"][1]["name"], "output_probability");
    assert_eq!(maps["outputs"][1]["shape"], json!([2, 3]));
    assert_eq!(maps["outputs"][1]["data"], plain["outputs"][1]["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_what_is_wrong() {
    let server = Server::with(&["iris", "identity"]).await;
    let input = |fields: &str| format!(r#"{{"inputs":[{{{fields}}}]}}"#);
    let x = r#""name":"X","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]"#;
    let cases = [
        (
            "iris",
            input(&x.replace("[1,4]", "[4]")),
            400,
            "inputs 'X': shape [4] has 1 dimensions, the model takes [-1, 4]",
        ),
        (
            "iris",
            input(&x.replace("[1,4]", "[2,2]")),
            400,
            "inputs 'X': shape [2, 2] does not fit, the model takes [-1, 4]",
        ),
        ("iris", input(&x.replace("FP32", "FP64")), 400, "inputs 'X': datatype is FP64, the model takes FP32"),
        (
            "iris",
            input(&x.replace("X", "Y")),
            400,
            "inputs 'Y': unknown, the model takes X FP32 [-1, 4]; inputs 'X': missing, the model takes X FP32 [-1, 4]",
        ),
        ("iris", r#"{"inputs":[]}"#.to_owned(), 400, "inputs 'X': missing, the model takes X FP32 [-1, 4]"),
        ("iris", format!(r#"{{"inputs":[{{{x}}},{{{x}}}]}}"#), 400, "inputs 'X': given twice"),
        (
            "iris",
            format!(r#"{{"inputs":[{{{x}}}],"outputs":[{{"name":"z"}}]}}"#),
            400,
            "outputs 'z': unknown, the model gives label, probabilities",
        ),
        (
            "iris",
            format!(r#"{{"inputs":[{{{x}}}],"outputs":[{{"name":"label"}},{{"name":"label"}}]}}"#),
            400,
            "outputs 'label': asked for twice",
        ),
        (
            "iris",
            input(&x.replace("[1,2,3,4]", "[1,2,3]")),
            400,
            "inputs[0] 'X': shape [1,4] wants 4 elements, data has 3",
        ),
        (
            "iris",
            input(&x.replace("FP32", "FP31")),
            400,
            "inputs[0] 'X': unknown datatype 'FP31', the known ones are BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64, BYTES",
        ),
        ("iris", "{".to_owned(), 400, "not valid JSON: EOF while parsing an object at line 1 column 1"),
        (
            "identity",
            identity_body("BYTES", r#"["a","b\u0000","c"]"#),
            400,
            "inputs 'in_BYTES': element 1 contains a NUL, which ONNX strings cannot",
        ),
        ("nosuch", IRIS.to_owned(), 404, "model 'nosuch' is not loaded"),
        ("iris/versions/2", IRIS.to_owned(), 404, "model 'iris' has the version 1 only, not '2'"),
    ];
    for (model, body, status, text) in cases {
        let answer = server.post(&format!("/v2/models/{model}/infer"), body.clone()).await;
        assert_eq!(answer.error(), (status, text.to_owned()), "{body}");
    }
    assert_eq!(server.get("/v2/models/nosuch").await.error(), (404, "model 'nosuch' is not loaded".to_owned()));
    assert_eq!(server.get("/v2/models/nosuch/ready").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/v3").await.error(), (404, "no such path: /v3".to_owned()));
    assert_eq!(
        server.get("/v2/models/iris/infer").await.error(),
        (405, "the method GET is not allowed here".to_owned())
    );
    // And after all that it still works.
    assert_eq!(server.post("/v2/models/iris/infer", IRIS).await.json()["outputs"][0]["data"], json!([1, 0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_binary_requests_are_told_what_is_wrong() {
    let server = Server::with(&["identity"]).await;
    let sent = InferRequest::from_json(&identity_body("BYTES", r#"["a","b","c"]"#).into(), None).expect("valid");
    let body = sent.to_json(TextStyle::Text, |_| true);
    let post = async |body: Bytes, length: &str| {
        let mut request = server.request(Method::POST, "/v2/models/identity/infer", body);
        let length = HeaderValue::from_str(length).expect("a header");
        request.headers_mut().insert("inference-header-content-length", length);
        server.send(request).await.error()
    };
    let length = body.json_length.expect("binary").to_string();
    assert_eq!(
        post(body.body.clone(), "x").await,
        (400, "header inference-header-content-length: 'x' is not a number".to_owned())
    );
    let short = body.body.slice(..body.body.len() - 1);
    assert_eq!(
        post(short, &length).await,
        (400, "inputs[13] 'in_BYTES': binary_data_size is 15, the body has 14 bytes left".to_owned())
    );
    let mut broken = BytesMut::from(&body.body[..]);
    *broken.last_mut().expect("not empty") = 0xff;
    assert_eq!(
        post(broken.freeze(), &length).await,
        (400, "inputs 'in_BYTES': element 2 is not UTF-8, as ONNX strings are".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused() {
    const LIMIT: usize = 100_000;
    let server = Server::start(|config| config.max_message_bytes = LIMIT).await;
    server.add("iris", &crate::harness::sample("iris"));
    server.post("/v2/repository/models/iris/load", "").await;
    let body = format!("{IRIS}{}", " ".repeat(LIMIT - IRIS.len()));
    assert_eq!(server.post("/v2/models/iris/infer", body.clone()).await.status, StatusCode::OK);
    let over_http2 = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for size in [LIMIT + 1, 100 * LIMIT] {
        let body = Bytes::from(" ".repeat(size));
        let refused = (413, "message is larger than the limit of 100000 bytes".to_owned());
        assert_eq!(server.post("/v2/models/iris/infer", body.clone()).await.error(), refused);
        let request = server.request(Method::POST, "/v2/models/iris/infer", body);
        assert_eq!(server.send_by(&over_http2, request).await.error(), refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_request_is_answered_before_the_server_stops() {
    let mut server = Server::with(&["iris"]).await;
    let mut stream = TcpStream::connect(server.address).await.expect("connected");
    let head = format!(
        "POST /v2/models/iris/infer HTTP/1.1\r\nhost: iris\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        IRIS.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    // The server asks for the body when the request is being answered.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.expect("asked");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.stop.request();
    stream.write_all(IRIS.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await;
    read.expect("in time").expect("an answer and the end of the connection");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(r#""data":[1,0]"#), "{answer}");
    let ended = tokio::time::timeout(DEADLINE, &mut server.running).await.expect("in time");
    assert!(ended.expect("no panic").is_ok());
}
