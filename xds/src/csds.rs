//! The client status discovery service: what each client has, what is on its way and what it refused. For people and tools.
//!
//! An answer looks at every resource of every client that is asked for, so ask for one client where there are many. One is made
//! at a time, beside the streams and not among them.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::{
    ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::Any;
use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::ads::Shared;
use crate::resource::Kind;
use crate::session::{Delivery, ResourceStatus};

/// Longest answer: a dozen clients with 100,000 scopes and what is in them, or a hundred without.
const MAX_ANSWER_BYTES: usize = 512 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Csds {
    shared: Arc<Shared>,
    turn: Arc<Semaphore>,
}

pub(crate) fn service(shared: Arc<Shared>) -> ClientStatusDiscoveryServiceServer<Csds> {
    let csds = Csds { shared, turn: Arc::new(Semaphore::new(1)) };
    ClientStatusDiscoveryServiceServer::new(csds).max_encoding_message_size(usize::MAX)
}

impl Csds {
    async fn answer(&self, request: ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        request.node_matchers.iter().try_for_each(check)?;
        let csds = self.clone();
        // Closed it never is.
        let _turn = self.turn.acquire().await;
        let made = tokio::task::spawn_blocking(move || csds.made(&request, MAX_ANSWER_BYTES)).await;
        made.map_err(|ended| Status::internal(format!("the answer was not made: {ended}")))?
    }

    fn made(&self, request: &ClientStatusRequest, limit: usize) -> Result<ClientStatusResponse, Status> {
        let (mut config, mut bytes) = (Vec::new(), 0);
        for session in self.shared.sessions() {
            let session = session.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let node = session.node();
            if !request.node_matchers.is_empty() && !request.node_matchers.iter().any(|of| matches(of, &node.id)) {
                continue;
            }
            let node = WireNode { id: node.id.clone(), cluster: node.cluster.clone(), ..WireNode::default() };
            let resources = session.resources(&self.shared.table());
            drop(session);
            let mut generic_xds_configs = Vec::with_capacity(resources.len());
            for resource in &resources {
                let generic = generic(resource, !request.exclude_resource_contents);
                bytes += generic.encoded_len();
                if bytes > limit {
                    let text = format!(
                        "the answer has more than {limit} bytes: ask for one client (node_matchers), or without what is in \
                         the resources (exclude_resource_contents)"
                    );
                    return Err(Status::out_of_range(text));
                }
                generic_xds_configs.push(generic);
            }
            config.push(ClientConfig { node: Some(node), generic_xds_configs, ..ClientConfig::default() });
        }
        Ok(ClientStatusResponse { config })
    }
}

fn generic(status: &ResourceStatus, with_contents: bool) -> GenericXdsConfig {
    let version = status.resource.as_ref().map(|resource| resource.version_text().into_owned());
    let type_url = status.key.kind.type_url().to_owned();
    let contents = status.resource.as_ref().filter(|_| with_contents);
    let error = match &status.delivery {
        Delivery::Refused(reason) => Some(UpdateFailureState {
            details: reason.as_deref().unwrap_or("refused").to_owned(),
            version_info: version.clone().unwrap_or_default(),
            ..UpdateFailureState::default()
        }),
        Delivery::Waiting | Delivery::Sent | Delivery::Applied => None,
    };
    let of_server = match &status.delivery {
        Delivery::Waiting => ConfigStatus::NotSent,
        Delivery::Sent => ConfigStatus::Stale,
        Delivery::Applied => ConfigStatus::Synced,
        Delivery::Refused(_) => ConfigStatus::Error,
    };
    let of_client = match (&status.delivery, &status.resource) {
        (Delivery::Waiting | Delivery::Sent, _) => ClientResourceStatus::Requested,
        (Delivery::Applied, None) => ClientResourceStatus::DoesNotExist,
        (Delivery::Applied, Some(_)) => ClientResourceStatus::Acked,
        (Delivery::Refused(_), _) => ClientResourceStatus::Nacked,
    };
    GenericXdsConfig {
        xds_config: contents.map(|of| Any { type_url: type_url.clone(), value: of.body().to_vec() }),
        type_url,
        name: status.key.name.to_string(),
        version_info: version.unwrap_or_default(),
        config_status: of_server.into(),
        client_status: of_client.into(),
        error_state: error,
        ..GenericXdsConfig::default()
    }
}

/// What a server says of one of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    pub node: String,
    pub resources: Vec<Told>,
}

/// What a server says of one resource of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// None: a type that this version does not know.
    pub kind: Option<Kind>,
    pub name: String,
    /// Empty: it is not there.
    pub version: String,
    pub delivery: Delivery,
}

/// Asks a server for one client, or for all.
///
/// # Errors
/// What the server, or the way to it, says.
pub async fn fetch(channel: Channel, node: Option<&str>) -> Result<Vec<ClientStatus>, Status> {
    let exact =
        |id: &str| StringMatcher { match_pattern: Some(MatchPattern::Exact(id.to_owned())), ignore_case: false };
    let matcher = |id: &str| NodeMatcher { node_id: Some(exact(id)), node_metadatas: Vec::new() };
    let request = ClientStatusRequest {
        node_matchers: node.map(matcher).into_iter().collect(),
        exclude_resource_contents: true,
        ..ClientStatusRequest::default()
    };
    let mut client = ClientStatusDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let answer = client.fetch_client_status(request).await?.into_inner();
    let told = |of: GenericXdsConfig| Told {
        kind: Kind::from_type_url(&of.type_url),
        delivery: match of.config_status() {
            ConfigStatus::Synced => Delivery::Applied,
            ConfigStatus::Stale => Delivery::Sent,
            ConfigStatus::Error => Delivery::Refused(of.error_state.map(|error| error.details.into())),
            ConfigStatus::NotSent | ConfigStatus::Unknown => Delivery::Waiting,
        },
        name: of.name,
        version: of.version_info,
    };
    let status = |config: ClientConfig| ClientStatus {
        node: config.node.unwrap_or_default().id,
        resources: config.generic_xds_configs.into_iter().map(told).collect(),
    };
    Ok(answer.config.into_iter().map(status).collect())
}

/// What is not understood is refused, or it would seem that nobody matches.
fn check(matcher: &NodeMatcher) -> Result<(), Status> {
    if !matcher.node_metadatas.is_empty() {
        return Err(Status::unimplemented("node_matchers.node_metadatas: only node_id is looked at"));
    }
    match matcher.node_id.as_ref().and_then(|id| id.match_pattern.as_ref()) {
        Some(
            MatchPattern::Exact(_) | MatchPattern::Prefix(_) | MatchPattern::Suffix(_) | MatchPattern::Contains(_),
        ) => Ok(()),
        Some(MatchPattern::SafeRegex(_) | MatchPattern::Custom(_)) => {
            Err(Status::unimplemented("node_matchers.node_id: only exact, prefix, suffix and contains are known"))
        }
        None => Err(Status::invalid_argument("node_matchers.node_id: is missing")),
    }
}

fn matches(matcher: &NodeMatcher, id: &str) -> bool {
    let Some(StringMatcher { match_pattern: Some(pattern), ignore_case }) = &matcher.node_id else { return false };
    let fold = |text: &str| if *ignore_case { text.to_lowercase() } else { text.to_owned() };
    let id = fold(id);
    match pattern {
        MatchPattern::Exact(text) => id == fold(text),
        MatchPattern::Prefix(text) => id.starts_with(&fold(text)),
        MatchPattern::Suffix(text) => id.ends_with(&fold(text)),
        MatchPattern::Contains(text) => id.contains(&fold(text)),
        MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => false,
    }
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let csds = self.clone();
        let mut stage = csds.shared.stage();
        let draining = async move {
            // It also ends with the server.
            let _drains = stage.wait_for(|stage| stage.is_draining()).await;
        };
        let requests = request.into_inner().take_until(Box::pin(draining));
        let answers = requests.then(move |request| {
            let csds = csds.clone();
            async move { csds.answer(request?).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.answer(request.into_inner()).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::ads::{Ads, Config};
    use crate::gate::StreamId;
    use crate::message::{Ask, Mode, Node};
    use crate::resource::{Change, Resource};
    use crate::session::Session;

    #[tokio::test]
    async fn an_answer_that_would_be_too_long_says_what_to_leave_out() {
        let (ads, _feedback) = Ads::new(Config::default());
        let scope = Resource::new(Kind::ScopedRoute, "iris", vec![0; 10_000].into());
        ads.publish(vec![Change::Put(scope)], vec![]).unwrap();
        for number in 0..3 {
            let node = Node { id: format!("envoy-{number}"), ..Node::default() };
            let mut session = Session::new(Mode::Delta, node, Duration::ZERO, None);
            let ask = Ask::Delta { subscribe: vec![], unsubscribe: vec![], initial: vec![] };
            let all = crate::message::Request { kind: Kind::ScopedRoute, nonce: None, error: None, ask };
            session.on_request(all, &ads.shared.table(), ads.now()).unwrap();
            ads.shared.joined(StreamId(number), &Arc::new(Mutex::new(session)));
        }
        let csds = Csds { shared: Arc::clone(&ads.shared), turn: Arc::new(Semaphore::new(1)) };
        let made = |request: &ClientStatusRequest| csds.made(request, 25_000);
        let whole = ClientStatusRequest::default();
        let refused = made(&whole).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
        assert!(refused.message().starts_with("the answer has more than 25000 bytes: "), "{}", refused.message());
        let without = ClientStatusRequest { exclude_resource_contents: true, ..ClientStatusRequest::default() };
        assert_eq!(made(&without).unwrap().config.len(), 3);
        let node_id = StringMatcher { match_pattern: Some(MatchPattern::Exact("envoy-1".into())), ignore_case: false };
        let node_matchers = vec![NodeMatcher { node_id: Some(node_id), node_metadatas: vec![] }];
        assert_eq!(made(&ClientStatusRequest { node_matchers, ..whole }).unwrap().config.len(), 1);
    }
}
