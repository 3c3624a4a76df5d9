//! What Envoy and the agent add to a call: the same call to the inference server itself, to the agent, and through
//! Envoy, in turn, over one connection each, one at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use domain::header;
use harness::{Model, Rpc, iris, rpc, with_metadata};
use http::StatusCode;

use crate::Size;
use crate::client::{Connection, Question};
use crate::figures::{Times, difference, milliseconds};
use crate::installation::Installation;
use crate::table::Table;

const MODEL: &str = "iris";
/// What the inference server calls its first version.
const INTERNAL: &str = "iris_1";
/// Calls of each way before any is counted.
const WARM_UP: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Agent,
    Envoy,
}

const WAYS: [Way; 3] = [Way::Direct, Way::Agent, Way::Envoy];

/// One way over one protocol.
enum Caller {
    Rest { connection: Connection, question: Question },
    Grpc { client: Rpc, message: Box<messages::inference::ModelInferRequest>, internal: bool },
}

pub(crate) async fn run(size: Size) -> Result<()> {
    // One replica, so that all three ways end at the same server.
    let installation = Installation::start(1).await?;
    installation.load(&Model::iris(MODEL), MODEL).await?;
    let direct = installation.inference_servers()?.first().copied().context("an inference server")?;
    let agent = installation.agents().await?.first().copied().context("Envoy knows an agent")?;
    let mut table = Table::new(&[
        "",
        "direct p50 ms",
        "p99 ms",
        "agent p50 ms",
        "p99 ms",
        "Envoy + agent p50 ms",
        "p99 ms",
        "added p50 ms (aim ≤ 0.3)",
        "added p99 ms (aim ≤ 1)",
    ]);
    for protocol in ["REST", "gRPC"] {
        let addresses = [direct, agent, installation.inference];
        let mut callers = Vec::new();
        for (way, address) in WAYS.into_iter().zip(addresses) {
            callers.push(caller(protocol, way, address).await?);
        }
        let mut times = [const { Vec::new() }; WAYS.len()];
        for round in 0..WARM_UP + size.pick(5_000, 200) {
            for turn in 0..WAYS.len() {
                let way = (round + turn) % WAYS.len();
                let took = callers.get_mut(way).context("a way has its caller")?.call().await?;
                if round >= WARM_UP {
                    times.get_mut(way).context("a way has its times")?.push(took);
                }
            }
        }
        let [direct, agent, envoy] = times.map(|times| times.into_iter().collect::<Times>());
        let p99 = |times: &Times| times.quantile(0.99);
        table.row([
            protocol.to_owned(),
            milliseconds(direct.median()),
            milliseconds(p99(&direct)),
            milliseconds(agent.median()),
            milliseconds(p99(&agent)),
            milliseconds(envoy.median()),
            milliseconds(p99(&envoy)),
            difference(envoy.median(), direct.median()),
            difference(p99(&envoy), p99(&direct)),
        ]);
    }
    table.print();
    installation.stop().await
}

/// Through Envoy a client sends nothing but the plain protocol; the agent is called as Envoy does it.
async fn caller(protocol: &str, way: Way, address: SocketAddr) -> Result<Caller> {
    let name = if way == Way::Direct { INTERNAL } else { MODEL };
    if protocol == "gRPC" {
        let message = Box::new(iris::message(name));
        return Ok(Caller::Grpc { client: rpc(address), message, internal: way == Way::Agent });
    }
    let question = Question::post(&format!("/v2/models/{name}/infer"), iris::BODY);
    let question = if way == Way::Agent { question.header(header::INTERNAL_MODEL, INTERNAL)? } else { question };
    Ok(Caller::Rest { connection: Connection::open(address).await?, question })
}

impl Caller {
    async fn call(&mut self) -> Result<Duration> {
        match self {
            Caller::Rest { connection, question } => {
                let started = Instant::now();
                let (status, body) = connection.ask(question).await?;
                let took = started.elapsed();
                ensure!(status == StatusCode::OK, "a wrong answer: {status} {body:?}");
                iris::check_json(&String::from_utf8_lossy(&body))?;
                Ok(took)
            }
            Caller::Grpc { client, message, internal } => {
                let metadata: &[(&'static str, &str)] =
                    if *internal { &[(header::INTERNAL_MODEL, INTERNAL)] } else { &[] };
                let request = with_metadata(message.as_ref().clone(), metadata);
                let started = Instant::now();
                let answer = client.model_infer(request).await?;
                let took = started.elapsed();
                iris::check_message(answer.get_ref())?;
                Ok(took)
            }
        }
    }
}
