//! What a client sends and gets.

use std::net::SocketAddr;
use std::time::Duration;

use api::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use messages::inference as pb;
use tonic::transport::Channel;

/// Nothing in the tests takes a second; the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(20);

pub const MESSAGE_BYTES: usize = 128 << 20;

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn backend(&self) -> &str {
        self.header("x-backend").unwrap_or_else(|| panic!("{} {}", self.status, self.body))
    }
}

pub struct RestClient {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl RestClient {
    pub fn new(address: SocketAddr) -> Self {
        RestClient { address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, Bytes::new()).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        self.send("POST", path, headers, body).await
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        let response = tokio::time::timeout(DEADLINE, self.client.request(request)).await.unwrap().unwrap();
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect()).await.unwrap().unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body: String::from_utf8(body.into()).unwrap() }
    }
}

pub async fn rpc(address: SocketAddr) -> GrpcInferenceServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().timeout(DEADLINE).connect().await.unwrap();
    GrpcInferenceServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

pub fn infer(model: &str) -> pb::ModelInferRequest {
    pb::ModelInferRequest { model_name: model.to_owned(), id: "id".to_owned(), ..Default::default() }
}

pub fn with_headers<T>(message: T, headers: &[(&'static str, &str)]) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}
