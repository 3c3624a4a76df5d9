//! What the server says of its clients, over a socket.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ConfigStatus};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, RegexMatcher, StringMatcher};
use envoy_types::pb::google::rpc::Status as WireStatus;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::Channel;
use xds::{Change, Kind};

use crate::peer::resource;
use crate::socket::{client, delta, node, serve};

fn named(pattern: MatchPattern) -> ClientStatusRequest {
    let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case: false });
    let node_matchers = vec![NodeMatcher { node_id, node_metadatas: vec![] }];
    ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() }
}

/// Name, server's status, and what went wrong.
fn lines(config: &ClientConfig) -> Vec<String> {
    let line = |of: &envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig| {
        let status = ConfigStatus::try_from(of.config_status).unwrap().as_str_name();
        let error = of.error_state.as_ref().map(|error| format!(" {}", error.details)).unwrap_or_default();
        assert_eq!(of.xds_config.is_some(), !of.version_info.is_empty(), "what is there has contents and a version");
        format!("{} {status}{error}", of.name)
    };
    config.generic_xds_configs.iter().map(line).collect()
}

async fn becomes(csds: &mut ClientStatusDiscoveryServiceClient<Channel>, expected: &[&str]) {
    let began = tokio::time::Instant::now();
    loop {
        let answer = csds.fetch_client_status(named(MatchPattern::Exact("envoy-0".into()))).await.unwrap().into_inner();
        assert_eq!(answer.config.len(), 1);
        let found = lines(&answer.config[0]);
        if found == expected {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{found:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_resource_of_a_client_is_shown_with_where_it_is() {
    let (ads, _feedback, address) = serve(Duration::ZERO).await;
    ads.publish(vec![Change::Put(resource(Kind::Route, "a", "1"))], vec![]).unwrap();
    ads.open(false);
    let (requests, outgoing) = mpsc::channel(8);
    let first = DeltaDiscoveryRequest {
        node: node("envoy-0"),
        resource_names_subscribe: vec!["a".into(), "nobody".into()],
        ..delta(Kind::Route, "")
    };
    requests.send(first).await.unwrap();
    let mut client = client(address).await;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().unwrap();
    let mut csds = ClientStatusDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
    becomes(&mut csds, &["a STALE", "nobody STALE"]).await;
    ads.publish(vec![Change::Put(resource(Kind::Route, "a", "2"))], vec![]).unwrap();
    becomes(&mut csds, &["a NOT_SENT", "nobody STALE"]).await;
    requests.send(delta(Kind::Route, &response.nonce)).await.unwrap();
    let response = responses.message().await.unwrap().unwrap();
    let error_detail = Some(WireStatus { code: 3, message: "no such cluster".into(), details: vec![] });
    requests.send(DeltaDiscoveryRequest { error_detail, ..delta(Kind::Route, &response.nonce) }).await.unwrap();
    becomes(&mut csds, &["a ERROR no such cluster", "nobody SYNCED"]).await;
    ads.publish(vec![Change::Put(resource(Kind::Route, "a", "3"))], vec![]).unwrap();
    let response = responses.message().await.unwrap().unwrap();
    requests.send(delta(Kind::Route, &response.nonce)).await.unwrap();
    becomes(&mut csds, &["a SYNCED", "nobody SYNCED"]).await;
    // Who is meant, and what is left out.
    let without = ClientStatusRequest { exclude_resource_contents: true, ..ClientStatusRequest::default() };
    let all = csds.fetch_client_status(without).await.unwrap().into_inner();
    assert!(all.config[0].generic_xds_configs.iter().all(|of| of.xds_config.is_none()));
    for (pattern, count) in [
        (MatchPattern::Prefix("envoy".into()), 1),
        (MatchPattern::Suffix("0".into()), 1),
        (MatchPattern::Contains("voy".into()), 1),
        (MatchPattern::Exact("envoy".into()), 0),
    ] {
        assert_eq!(csds.fetch_client_status(named(pattern)).await.unwrap().into_inner().config.len(), count);
    }
    let refused = csds.fetch_client_status(named(MatchPattern::SafeRegex(RegexMatcher::default()))).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains("node_id")), (Code::Unimplemented, true));
    let (asks, asked) = mpsc::channel(2);
    let mut answers = csds.stream_client_status(ReceiverStream::new(asked)).await.unwrap().into_inner();
    for _ in 0..2 {
        asks.send(ClientStatusRequest::default()).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().config.len(), 1);
    }
}

#[tokio::test]
async fn a_client_with_more_than_one_response_holds_is_told_as_one() {
    const SCOPES: usize = 60_000;
    let (ads, _feedback, address) = serve(Duration::ZERO).await;
    let scope = |number| Change::Put(resource(Kind::ScopedRoute, &format!("m{number}"), "1"));
    ads.publish((0..SCOPES).map(scope).collect(), vec![]).unwrap();
    ads.open(false);
    let mut streams = Vec::new();
    for _ in 0..2 {
        let (requests, outgoing) = mpsc::channel(8);
        requests.send(DeltaDiscoveryRequest { node: node("envoy"), ..delta(Kind::ScopedRoute, "") }).await.unwrap();
        let mut client = client(address).await.max_decoding_message_size(usize::MAX);
        let mut responses =
            client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        assert_eq!(responses.message().await.unwrap().unwrap().resources.len(), SCOPES);
        streams.push((requests, responses));
    }
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let told = xds::fetch(channel.clone(), None, |client| (client.node, client.resources.len())).await.unwrap();
    assert_eq!(told, [("envoy".to_owned(), SCOPES), ("envoy".to_owned(), SCOPES)]);
    let request = ClientStatusRequest { exclude_resource_contents: true, ..ClientStatusRequest::default() };
    let refused = ClientStatusDiscoveryServiceClient::new(channel).fetch_client_status(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
}
