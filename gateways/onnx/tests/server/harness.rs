//! Starts a server in a folder of its own and talks to it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use api::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use onnx_server::Config;
use runtime::Stop;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::transport::Channel;

/// What any single step of a test may take; the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub struct Server {
    pub address: SocketAddr,
    pub stop: Stop,
    pub folder: tempfile::TempDir,
    pub running: JoinHandle<Result<(), onnx_server::Error>>,
    http: Client<HttpConnector, Full<Bytes>>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), "application/json", "{:?}", self.body);
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Status and text of an error answer.
    pub fn error(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"].as_str().expect("an error").to_owned())
    }
}

impl Server {
    /// A server with the samples loaded.
    pub async fn with(models: &[&str]) -> Self {
        let server = Self::start(|_| ()).await;
        for model in models {
            server.add(model, &sample(model));
            assert_eq!(server.post(&format!("/v2/repository/models/{model}/load"), "").await.status, StatusCode::OK);
        }
        server
    }

    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut config = Config::new(folder.path());
        change(&mut config);
        let stop = Stop::new();
        let running = tokio::spawn(onnx_server::run(config, listener, stop.child()));
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { address, stop, folder, running, http }
    }

    /// Puts a model file where `load` finds it.
    pub fn add(&self, name: &str, file: &Path) {
        self.add_file(&format!("{name}/model.onnx"), &std::fs::read(file).expect("the sample"));
    }

    pub fn add_file(&self, path: &str, content: &[u8]) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("written");
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path, Bytes::new())).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(self.request(Method::POST, path, body.into())).await
    }

    /// A request without content type, as tritonclient sends it.
    pub fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let uri = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(uri).body(Full::new(body)).expect("a request")
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.send_by(&self.http, request).await
    }

    pub async fn send_by(&self, client: &Client<HttpConnector, Full<Bytes>>, request: Request<Full<Bytes>>) -> Answer {
        let exchange = async {
            let (parts, body) = client.request(request).await.expect("an answer").into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            Answer { status: parts.status, headers: parts.headers, body }
        };
        tokio::time::timeout(DEADLINE, exchange).await.expect("in time")
    }

    pub async fn grpc(&self) -> GrpcInferenceServiceClient<Channel> {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("an address");
        let client = GrpcInferenceServiceClient::new(endpoint.connect().await.expect("connected"));
        client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.request();
    }
}

pub fn sample(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/models").join(model).join("model.onnx")
}

pub fn data(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file)).expect("the file")
}

/// Every datatype with the JSON of three elements that are hard to keep.
pub const SAMPLES: [(&str, &str); 14] = [
    ("BOOL", "[true,false,true]"),
    ("UINT8", "[0,1,255]"),
    ("UINT16", "[0,1,65535]"),
    ("UINT32", "[0,1,4294967295]"),
    ("UINT64", "[0,9007199254740993,18446744073709551615]"),
    ("INT8", "[-128,0,127]"),
    ("INT16", "[-32768,0,32767]"),
    ("INT32", "[-2147483648,0,2147483647]"),
    ("INT64", "[-9223372036854775808,9007199254740993,9223372036854775807]"),
    ("FP16", "[-65504.0,0.0,0.33325195]"),
    ("BF16", "[-3.0,0.0,0.33398438]"),
    ("FP32", "[0.1,1e-45,3.4028235e38]"),
    ("FP64", "[0.1,5e-324,1.7976931348623157e308]"),
    ("BYTES", r#"["","a\"é",","]"#),
];

/// A request to the identity model: `data` for one datatype, no elements for the others.
pub fn identity_body(datatype: &str, data: &str) -> String {
    let inputs: Vec<String> = SAMPLES
        .iter()
        .map(|(each, _)| {
            let (shape, data) = if *each == datatype { (3, data) } else { (0, "[]") };
            format!(r#"{{"name":"in_{each}","shape":[{shape}],"datatype":"{each}","data":{data}}}"#)
        })
        .collect();
    format!(r#"{{"inputs":[{}],"outputs":[{{"name":"out_{datatype}"}}]}}"#, inputs.join(","))
}

pub const IRIS: &str =
    r#"{"id":"7","inputs":[{"name":"X","shape":[2,4],"datatype":"FP32","data":[[6,3,4,1.5],[5,3.4,1.4,0.2]]}]}"#;
