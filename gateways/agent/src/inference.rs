//! Control of the inference server: is it there, load, unload, what has it loaded. Requests of users do not come
//! through here.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::net::SocketAddr;
use std::time::Duration;

use api::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use messages::inference::{
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerLiveRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// A server that is there answers at once.
const LIVE_LIMIT: Duration = Duration::from_secs(2);
/// Large models take their time (`spec/control-plane.md` §4.2).
const LOAD_LIMIT: Duration = Duration::from_secs(3600);
const UNLOAD_LIMIT: Duration = Duration::from_secs(120);
const INDEX_LIMIT: Duration = Duration::from_secs(60);
/// It is on this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A call the server did not carry out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{call} {model} on the inference server: {reason}")]
    Refused { call: &'static str, model: String, code: Code, reason: String },
    #[error("{call} {model}: the inference server at {address} does not answer: {reason}")]
    NoAnswer { call: &'static str, model: String, address: SocketAddr, reason: String },
}

impl Error {
    /// The server may never have seen the call.
    pub(crate) fn is_no_answer(&self) -> bool {
        matches!(self, Error::NoAnswer { .. })
    }

    pub(crate) fn is_unknown_model(&self) -> bool {
        matches!(self, Error::Refused { code: Code::NotFound, .. })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Control {
    address: SocketAddr,
    client: GrpcInferenceServiceClient<Channel>,
}

impl Control {
    /// Connects when it is first used, and again when the connection is lost.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a socket address makes a URI");
        let channel = endpoint.connect_timeout(CONNECT_LIMIT).tcp_nodelay(true).connect_lazy();
        Self { address, client: GrpcInferenceServiceClient::new(channel) }
    }

    pub(crate) async fn live(&self) -> Result<bool, Error> {
        let answer = self.client.clone().server_live(timed(ServerLiveRequest {}, LIVE_LIMIT)).await;
        answer.map(|answer| answer.into_inner().live).map_err(|status| self.error("ask for life", "", status))
    }

    pub(crate) async fn load(&self, model: &str) -> Result<(), Error> {
        let request = RepositoryModelLoadRequest { model_name: model.to_owned(), ..Default::default() };
        let answer = self.client.clone().repository_model_load(timed(request, LOAD_LIMIT)).await;
        answer.map(|_| ()).map_err(|status| self.error("load", model, status))
    }

    pub(crate) async fn unload(&self, model: &str) -> Result<(), Error> {
        let request = RepositoryModelUnloadRequest { model_name: model.to_owned(), ..Default::default() };
        let answer = self.client.clone().repository_model_unload(timed(request, UNLOAD_LIMIT)).await;
        answer.map(|_| ()).map_err(|status| self.error("unload", model, status))
    }

    /// Names of the models that are loaded, or being loaded.
    pub(crate) async fn loaded(&self) -> Result<BTreeSet<String>, Error> {
        let request = RepositoryIndexRequest { repository_name: String::new(), ready: false };
        let answer = self.client.clone().repository_index(timed(request, INDEX_LIMIT)).await;
        let models = answer.map_err(|status| self.error("list", "models", status))?.into_inner().models;
        let loaded = models.into_iter().filter(|model| matches!(model.state.as_str(), "READY" | "LOADING"));
        Ok(loaded.map(|model| model.name).filter(|name| !name.is_empty()).collect())
    }

    fn error(&self, call: &'static str, model: &str, status: Status) -> Error {
        let model = model.to_owned();
        // A status that the server sent has no source; one that was made here has.
        match (status.code(), status.source()) {
            (code, None) if code != Code::Unavailable => {
                Error::Refused { call, model, code, reason: status.message().to_owned() }
            }
            (_, Some(source)) => {
                Error::NoAnswer { call, model, address: self.address, reason: crate::reason::chain(source) }
            }
            (_, None) => Error::NoAnswer { call, model, address: self.address, reason: status.message().to_owned() },
        }
    }
}

fn timed<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}
