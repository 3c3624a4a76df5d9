//! Health over gRPC on every port, and over HTTP for probes (rows 103, 106).

use std::net::Ipv4Addr;

use messages::scheduler as wire;
use messages::{agent, health};
use runtime::health::Health;
use runtime::{OnError, Stop, Tasks};
use scheduler::{Port, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Status};

use crate::world::{World, channel, loop_until};

async fn probe_status(at: std::net::SocketAddr) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[tokio::test]
async fn probe_is_well_while_every_port_is_and_500_when_one_is_not() {
    let world = World::start().await;
    let (stop, health) = (Stop::new(), Health::new());
    let tasks = Tasks::new(stop.clone());
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = port.local_addr().unwrap();
    let targets = [("the scheduler API", world.control_at), ("agents", world.agents), ("workers", world.workers_at)];
    let mut targets: Vec<Target> = targets.map(|(what, at)| Target { what, at, port: Port::Driver }).into();
    targets.push(Target { what: "Envoys", at: world.xds, port: Port::Envoys });
    tasks.spawn("health", OnError::StopProcess, runtime::health::serve(port, health.clone(), stop.clone()));
    tasks.spawn("probe", OnError::StopProcess, scheduler::probe(targets, health.check("scheduler"), stop.clone()));
    let is = async |wanted: u16| {
        loop_until(&format!("the probe answers {wanted}"), async || match probe_status(at).await {
            (status, answer) if status == wanted => Ok(answer),
            (_, answer) => Err(answer),
        })
        .await
    };
    assert!(world.is_healthy().await);
    is(200).await;
    drop(world.stop().await);
    let answer = is(500).await;
    assert!(["the scheduler API", "workers", "Envoys"].iter().all(|what| answer.contains(what)), "{answer}");
    stop.request();
}

/// What a client may take for permanent (FAILED_PRECONDITION, UNIMPLEMENTED) is permanent, and nothing transient is.
#[tokio::test]
async fn calls_to_a_scheduler_that_stops_are_transient_and_mistakes_are_permanent() {
    let world = World::start().await;
    let (mut control, mut agents) = (world.control.clone(), world.agent_api());
    let permanent: Vec<Result<(), Status>> = vec![
        control.load_model(wire::LoadModelRequest::default()).await.map(|_| ()),
        control.unload_model(wire::UnloadModelRequest::default()).await.map(|_| ()),
        control.start_experiment(wire::StartExperimentRequest::default()).await.map(|_| ()),
        control.stop_experiment(wire::StopExperimentRequest::default()).await.map(|_| ()),
        control.load_pipeline(wire::LoadPipelineRequest::default()).await.map(|_| ()),
        control.unload_pipeline(wire::UnloadPipelineRequest::default()).await.map(|_| ()),
        control.model_status_event(wire::ModelUpdateStatusMessage::default()).await.map(|_| ()),
        agents.subscribe(agent::AgentSubscribeRequest::default()).await.map(|_| ()),
        agents.agent_drain(agent::AgentDrainRequest::default()).await.map(|_| ()),
        agents.model_scaling_trigger(futures_util::stream::empty()).await.map(|_| ()),
    ];
    for (index, outcome) in permanent.into_iter().enumerate() {
        let code = outcome.expect_err("refused").code();
        assert!(matches!(code, Code::FailedPrecondition | Code::Unimplemented), "call {index}: {code:?}");
    }
    let (control_at, agents_at) = (world.control_at, world.agents);
    drop(world.stop().await);
    let mut control = api::scheduler::scheduler_client::SchedulerClient::new(channel(control_at));
    let mut agents = api::agent::agent_service_client::AgentServiceClient::new(channel(agents_at));
    let mut health = api::health::health_check_service_client::HealthCheckServiceClient::new(channel(control_at));
    let transient = [
        control.load_model(wire::LoadModelRequest::default()).await.map(|_| ()),
        control.stop_experiment(wire::StopExperimentRequest::default()).await.map(|_| ()),
        agents.agent_event(agent::ModelEventMessage::default()).await.map(|_| ()),
        health.health_check(health::HealthCheckRequest {}).await.map(|_| ()),
    ];
    for outcome in transient {
        assert_eq!(outcome.expect_err("nobody is there").code(), Code::Unavailable);
    }
}
