//! The client status discovery service: what each client has, what is on its way and what it refused. For people and tools.
//!
//! An answer looks at every resource of every client that is asked for, so ask for one client where there are many. It is made
//! beside the streams and not among them, of one caller at a time. A stream says much in several responses; [`fetch`] asks by one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

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
use futures_util::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::ads::Shared;
use crate::encode::field;
use crate::gate::StreamId;
use crate::resource::Kind;
use crate::session::{Delivery, ResourceStatus, Session};

/// Longest answer to one call, and what is in one response of a stream before there is another: what clients of gRPC take by default.
const ANSWER_BYTES: usize = 4 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Csds {
    shared: Arc<Shared>,
    turn: Arc<Semaphore>,
}

pub(crate) fn service(shared: Arc<Shared>) -> ClientStatusDiscoveryServiceServer<Csds> {
    let csds = Csds { shared, turn: Arc::new(Semaphore::new(1)) };
    ClientStatusDiscoveryServiceServer::new(csds).max_encoding_message_size(usize::MAX)
}

/// What is still to be told of one request.
struct Telling {
    request: ClientStatusRequest,
    streams: std::vec::IntoIter<(StreamId, Arc<Mutex<Session>>)>,
    /// The client of which some is told.
    client: Option<(ClientConfig, std::vec::IntoIter<ResourceStatus>)>,
}

impl Telling {
    fn is_over(&self) -> bool {
        self.client.is_none() && self.streams.len() == 0
    }

    /// What comes next, until it is `enough` bytes.
    fn part(&mut self, shared: &Shared, enough: usize) -> ClientStatusResponse {
        let (mut config, mut bytes) = (Vec::new(), 0);
        while bytes < enough
            && let Some((head, mut resources)) = self.client.take().or_else(|| self.next_client(shared))
        {
            let mut told = head.clone();
            bytes += told.encoded_len();
            for resource in resources.by_ref() {
                let generic = generic(&resource, !self.request.exclude_resource_contents);
                bytes += field(generic.encoded_len());
                told.generic_xds_configs.push(generic);
                if bytes >= enough {
                    break;
                }
            }
            config.push(told);
            self.client = (resources.len() > 0).then_some((head, resources));
        }
        ClientStatusResponse { config }
    }

    /// Who is asked for, and everything that there is to say of it.
    fn next_client(&mut self, shared: &Shared) -> Option<(ClientConfig, std::vec::IntoIter<ResourceStatus>)> {
        let matchers = &self.request.node_matchers;
        self.streams.by_ref().find_map(|(id, session)| {
            let session = session.lock().unwrap_or_else(PoisonError::into_inner);
            let node = session.node();
            if !matchers.is_empty() && !matchers.iter().any(|of| matches(of, &node.id)) {
                return None;
            }
            let node = WireNode { id: node.id.clone(), cluster: node.cluster.clone(), ..WireNode::default() };
            let resources = session.resources(&shared.table()).into_iter();
            // Node ids are not unique, and one client may be told in several parts.
            let client_scope = format!("stream {}", id.0);
            Some((ClientConfig { node: Some(node), client_scope, ..ClientConfig::default() }, resources))
        })
    }
}

impl Csds {
    fn telling(&self, request: ClientStatusRequest) -> Result<Telling, Status> {
        request.node_matchers.iter().try_for_each(check)?;
        Ok(Telling { request, streams: self.shared.sessions().into_iter(), client: None })
    }

    async fn part(&self, mut telling: Telling, enough: usize) -> Result<(ClientStatusResponse, Telling), Status> {
        // Closed it never is. It goes with the work, which goes on when the caller has left.
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let shared = Arc::clone(&self.shared);
        let made = tokio::task::spawn_blocking(move || {
            let part = telling.part(&shared, enough);
            drop(turn);
            (part, telling)
        });
        made.await.map_err(|ended| Status::internal(format!("the answer was not made: {ended}")))
    }

    /// All that one request asks for, in one answer.
    async fn answer(&self, request: ClientStatusRequest, most: usize) -> Result<ClientStatusResponse, Status> {
        let (answer, telling) = self.part(self.telling(request)?, most).await?;
        if !telling.is_over() || answer.encoded_len() > most {
            return Err(Status::out_of_range(format!(
                "the answer has more than {most} bytes: ask by a stream (StreamClientStatus), for one client (node_matchers), or \
                 without what is in the resources (exclude_resource_contents)"
            )));
        }
        Ok(answer)
    }

    /// The same in as many answers as it takes, each made when the one before was taken.
    fn answers(
        self,
        request: ClientStatusRequest,
        enough: usize,
    ) -> Result<impl Stream<Item = Result<ClientStatusResponse, Status>>, Status> {
        let telling = self.telling(request)?;
        Ok(futures_util::stream::try_unfold((telling, true), move |(telling, is_first)| {
            let csds = self.clone();
            async move {
                if telling.is_over() && !is_first {
                    return Ok(None);
                }
                let (part, telling) = csds.part(telling, enough).await?;
                // The others may all be some that are not asked for.
                let is_said = is_first || !part.config.is_empty();
                Ok(is_said.then_some((part, (telling, false))))
            }
        }))
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

/// Asks a server for one client, or for all, and keeps of each what `of` makes of it.
///
/// # Errors
/// What the server, or the way to it, says.
pub async fn fetch<T>(
    channel: Channel,
    node: Option<&str>,
    mut of: impl FnMut(ClientStatus) -> T,
) -> Result<Vec<T>, Status> {
    let exact =
        |id: &str| StringMatcher { match_pattern: Some(MatchPattern::Exact(id.to_owned())), ignore_case: false };
    let matcher = |id: &str| NodeMatcher { node_id: Some(exact(id)), node_metadatas: Vec::new() };
    let request = ClientStatusRequest {
        node_matchers: node.map(matcher).into_iter().collect(),
        exclude_resource_contents: true,
        ..ClientStatusRequest::default()
    };
    let mut client = ClientStatusDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut answers = client.stream_client_status(tokio_stream::once(request)).await?.into_inner();
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
    let mut clients = Vec::new();
    // Of one client the parts come one after the other.
    let mut last: Option<(String, ClientStatus)> = None;
    while let Some(answer) = answers.message().await? {
        for mut config in answer.config {
            let scope = std::mem::take(&mut config.client_scope);
            let part = status(config);
            match &mut last {
                Some((known, client)) if *known == scope && !scope.is_empty() => {
                    client.resources.extend(part.resources)
                }
                _ => clients.extend(last.replace((scope, part)).map(|(_, client)| of(client))),
            }
        }
    }
    clients.extend(last.map(|(_, client)| of(client)));
    Ok(clients)
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
        let answers = requests.map(move |request| csds.clone().answers(request?, ANSWER_BYTES)).try_flatten();
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.answer(request.into_inner(), ANSWER_BYTES).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ads::{Ads, Config};
    use crate::message::{Ask, Mode, Node};
    use crate::resource::{Change, Resource};

    /// With so many clients that have asked for so many resources of so many bytes.
    fn csds(clients: u64, resources: usize, bytes: usize) -> Csds {
        let (ads, _feedback) = Ads::new(Config::default());
        let scope = |number| Resource::new(Kind::ScopedRoute, format!("s{number}"), vec![0; bytes].into());
        ads.publish((0..resources).map(scope).map(Change::Put).collect(), vec![]).unwrap();
        for number in 0..clients {
            let node = Node { id: format!("envoy-{number}"), ..Node::default() };
            let mut session = Session::new(Mode::Delta, node, Duration::ZERO, None);
            let ask = Ask::Delta { subscribe: vec![], unsubscribe: vec![], initial: vec![] };
            let all = crate::message::Request { kind: Kind::ScopedRoute, nonce: None, error: None, ask };
            session.on_request(all, &ads.shared.table(), ads.now()).unwrap();
            ads.shared.joined(StreamId(number), &Arc::new(Mutex::new(session)));
        }
        Csds { shared: Arc::clone(&ads.shared), turn: Arc::new(Semaphore::new(1)) }
    }

    fn named(node: &str) -> ClientStatusRequest {
        let node_id = StringMatcher { match_pattern: Some(MatchPattern::Exact(node.into())), ignore_case: false };
        let node_matchers = vec![NodeMatcher { node_id: Some(node_id), node_metadatas: vec![] }];
        ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() }
    }

    fn nodes(answer: &ClientStatusResponse) -> Vec<String> {
        answer.config.iter().map(|client| client.node.clone().unwrap_or_default().id).collect()
    }

    #[tokio::test]
    async fn an_answer_that_would_be_too_long_says_what_to_leave_out() {
        let csds = csds(3, 1, 10_000);
        let whole = ClientStatusRequest::default();
        for most in [100, 10_000, 25_000] {
            let refused = csds.answer(whole.clone(), most).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::OutOfRange);
            let text = format!("the answer has more than {most} bytes: ask by a stream ");
            assert!(refused.message().starts_with(&text), "{}", refused.message());
        }
        assert_eq!(csds.answer(whole.clone(), 31_000).await.unwrap().config.len(), 3);
        let without = ClientStatusRequest { exclude_resource_contents: true, ..ClientStatusRequest::default() };
        assert_eq!(csds.answer(without, 25_000).await.unwrap().config.len(), 3);
        let one = csds.answer(named("envoy-1"), 25_000).await.unwrap();
        assert_eq!(nodes(&one), ["envoy-1"]);
    }

    #[tokio::test]
    async fn a_stream_is_told_any_number_of_clients_and_of_resources_a_part_after_another_and_each_once() {
        let csds = csds(9, 9, 10_000);
        for enough in [1, 25_000, 150_000, 10_000_000] {
            let answers = csds.clone().answers(ClientStatusRequest::default(), enough).unwrap();
            let answers: Vec<_> = answers.try_collect().await.unwrap();
            assert!(answers.iter().all(|answer| answer.encoded_len() < enough + 11_000));
            let told = answers.iter().flat_map(|answer| &answer.config).flat_map(|client| {
                client.generic_xds_configs.iter().map(|of| format!("{} {}", client.client_scope, of.name))
            });
            let told: Vec<String> = told.collect();
            let all: Vec<String> =
                (0..9).flat_map(|id| (0..9).map(move |number| format!("stream {id} s{number}"))).collect();
            assert_eq!(told, all, "{enough}");
        }
        for (node, expected) in [("envoy-8", &["envoy-8"][..]), ("nobody", &[])] {
            let answers = csds.clone().answers(named(node), 10_000_000).unwrap();
            let answers: Vec<_> = answers.try_collect().await.unwrap();
            assert_eq!(answers.iter().map(nodes).collect::<Vec<_>>(), [expected]);
        }
    }

    #[tokio::test]
    async fn callers_that_leave_do_not_have_answers_made_beside_each_other() {
        let csds = csds(1, 1, 10);
        let (_, session) = csds.shared.sessions().remove(0);
        let (locks, locked) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let busy = std::thread::spawn(move || {
            let _busy = session.lock().unwrap();
            locks.send(()).unwrap();
            released.recv().unwrap_err();
        });
        locked.recv().unwrap();
        for _ in 0..3 {
            let left = csds.answer(ClientStatusRequest::default(), 1_000);
            assert!(tokio::time::timeout(Duration::from_millis(1), left).await.is_err());
        }
        assert_eq!(csds.turn.available_permits(), 0, "the first one is being made");
        drop(release);
        busy.join().unwrap();
        assert_eq!(csds.answer(ClientStatusRequest::default(), 1_000).await.unwrap().config.len(), 1);
    }
}
