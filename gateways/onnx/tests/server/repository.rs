//! Loading and unloading, and model files of every bad kind: each an answer, none the end of the process.

use http::StatusCode;
use messages::inference::{
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
    repository_index_response::ModelIndex,
};
use onnx_server::Config;
use runtime::Stop;
use serde_json::json;
use tokio::net::TcpListener;
use tonic::Code;

use crate::harness::{IRIS, Server, sample};

fn load(name: &str) -> RepositoryModelLoadRequest {
    RepositoryModelLoadRequest { model_name: name.into(), ..RepositoryModelLoadRequest::default() }
}

fn unload(name: &str) -> RepositoryModelUnloadRequest {
    RepositoryModelUnloadRequest { model_name: name.into(), ..RepositoryModelUnloadRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_listed_and_unloaded() {
    let server = Server::start(|_| ()).await;
    let mut client = server.grpc().await;
    for name in ["a", "b"] {
        server.add(name, &sample("iris"));
    }
    client.repository_model_load(load("a")).await.expect("loaded");
    client.repository_model_load(load("a")).await.expect("loaded already");
    let line = |name: &str, state: &str, reason: &str| ModelIndex {
        name: name.into(),
        version: "1".into(),
        state: state.into(),
        reason: reason.into(),
    };
    let request = |ready| RepositoryIndexRequest { ready, ..RepositoryIndexRequest::default() };
    let index = client.repository_index(request(false)).await.expect("an index").into_inner().models;
    assert_eq!(index, [line("a", "READY", ""), line("b", "UNAVAILABLE", "")]);
    let index = client.repository_index(request(true)).await.expect("an index").into_inner().models;
    assert_eq!(index, [line("a", "READY", "")]);
    let rest = server.post("/v2/repository/index", r#"{"ready":true}"#).await.json();
    assert_eq!(rest, json!([{"name": "a", "version": "1", "state": "READY", "reason": ""}]));

    client.repository_model_unload(unload("a")).await.expect("unloaded");
    let status = client.repository_model_unload(unload("a")).await.expect_err("gone");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "model 'a' is not known"));
    assert_eq!(server.post("/v2/models/a/infer", IRIS).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.post("/v2/repository/models/b/load", "").await.status, StatusCode::OK);
    assert_eq!(server.post("/v2/models/b/infer", IRIS).await.status, StatusCode::OK);
    assert_eq!(server.post("/v2/repository/models/b/unload", "{}").await.status, StatusCode::OK);
    assert_eq!(
        server.post("/v2/repository/models/b/unload", "{}").await.error(),
        (404, "model 'b' is not known".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_load_says_why() {
    let server = Server::start(|_| ()).await;
    let iris = std::fs::read(sample("iris")).expect("the sample");
    server.add_file("empty/notes.txt", b"no model");
    server.add_file("two/a.onnx", &iris);
    server.add_file("two/b.onnx", &iris);
    server.add_file("garbage/model.onnx", b"this is no protobuf");
    server.add_file("nothing/model.onnx", b"");
    let mut client = server.grpc().await;
    let cases = [
        ("nosuch", Code::NotFound, "there is no folder"),
        ("empty", Code::InvalidArgument, "no .onnx file in"),
        ("two", Code::InvalidArgument, "has 2 .onnx files and none is called model.onnx"),
        ("garbage", Code::InvalidArgument, "is no model onnx runtime can load: "),
        ("nothing", Code::InvalidArgument, "is no model onnx runtime can load: "),
        ("", Code::InvalidArgument, "model name '' is empty"),
        ("..", Code::InvalidArgument, "model name '..' starts with a dot"),
        ("a/../b", Code::InvalidArgument, "model name 'a/../b' is not the name of one folder"),
        ("a\\b", Code::InvalidArgument, "model name 'a\\b' is not the name of one folder"),
    ];
    for (name, code, text) in cases {
        let status = client.repository_model_load(load(name)).await.expect_err(text);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    let index = server.post("/v2/repository/index", "").await.json();
    let garbage = index.as_array().expect("a list").iter().find(|model| model["name"] == "garbage").expect("listed");
    assert_eq!(garbage["state"], "UNAVAILABLE");
    assert!(!index.as_array().expect("a list").iter().any(|model| model["name"] == "nosuch"));
    assert!(garbage["reason"].as_str().expect("text").contains("is no model onnx runtime can load"));
    // Mended, it loads.
    server.add_file("garbage/model.onnx", &iris);
    client.repository_model_load(load("garbage")).await.expect("loaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_found_under_any_name_and_in_a_version_folder() {
    let server = Server::start(|_| ()).await;
    let iris = std::fs::read(sample("iris")).expect("the sample");
    server.add_file("named/classifier.onnx", &iris);
    server.add_file("triton/config.pbtxt", b"");
    server.add_file("triton/1/model.onnx", &iris);
    for name in ["named", "triton"] {
        let answer = server.post(&format!("/v2/repository/models/{name}/load"), "").await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        assert_eq!(server.post(&format!("/v2/models/{name}/infer"), IRIS).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damaged_model_file_takes_the_server_down() {
    let server = Server::start(|_| ()).await;
    let iris = std::fs::read(sample("iris")).expect("the sample");
    for index in 0..iris.len() {
        let mut damaged = iris.clone();
        // Every byte once: cut off, turned over.
        if index % 2 == 0 {
            damaged.truncate(index)
        } else {
            damaged[index] ^= 0xff
        }
        server.add_file("damaged/model.onnx", &damaged);
        let answer = server.post("/v2/repository/models/damaged/load", "").await;
        match answer.status {
            // Some bytes do not matter; the model then has to answer, in whatever way.
            StatusCode::OK => {
                server.post("/v2/models/damaged/infer", IRIS).await;
                server.post("/v2/repository/models/damaged/unload", "").await;
            }
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => {}
            status => panic!("{status}: {:?}", answer.body),
        }
    }
    assert_eq!(server.get("/v2/health/live").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_of_one_model_at_once_all_get_its_outcome() {
    let server = Server::start(|_| ()).await;
    server.add("good", &sample("iris"));
    server.add_file("bad/model.onnx", b"bad");
    let loads = (0..16).map(|index| {
        let name = if index % 2 == 0 { "good" } else { "bad" };
        let server = &server;
        async move { (name, server.post(&format!("/v2/repository/models/{name}/load"), "").await.status) }
    });
    for (name, status) in futures_util::future::join_all(loads).await {
        assert_eq!(status, if name == "good" { StatusCode::OK } else { StatusCode::BAD_REQUEST });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_model_loads_again_from_its_new_file() {
    let server = Server::start(|_| ()).await;
    server.add("changing", &sample("slow"));
    let load = async || server.post("/v2/repository/models/changing/load", "").await.status;
    assert_eq!(load().await, StatusCode::OK);
    server.add("changing", &sample("iris"));
    // Loaded already: nothing is read again.
    assert_eq!(load().await, StatusCode::OK);
    assert_eq!(server.get("/v2/models/changing").await.json()["inputs"][0]["name"], "rounds");
    server.post("/v2/repository/models/changing/unload", "").await;
    assert_eq!(load().await, StatusCode::OK);
    assert_eq!(server.get("/v2/models/changing").await.json()["inputs"][0]["name"], "X");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_answer_side_by_side() {
    let server = Server::start(|config| (config.instances_per_model, config.intra_threads) = (3, 2)).await;
    server.add("slow", &sample("slow"));
    server.post("/v2/repository/models/slow/load", "").await;
    let body = r#"{"inputs":[{"name":"rounds","shape":[1],"datatype":"INT64","data":[50]}]}"#;
    let answers = futures_util::future::join_all((0..24).map(|_| server.post("/v2/models/slow/infer", body))).await;
    let first = answers[0].json();
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK && answer.json() == first), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_library_is_a_clear_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("libonnxruntime.so");
    std::fs::write(&file, "not a library").expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let config = Config { runtime_library: Some(file.clone()), ..Config::new(folder.path().join("models")) };
    let error = onnx_server::run(config, listener, Stop::new()).await.expect_err("no library");
    assert_eq!(error.to_string(), format!("open onnx runtime: {} is no shared library", file.display()));
}
