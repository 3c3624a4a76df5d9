//! Envoys that were set up for some other control plane: their bootstraps say nothing that ours needs, and they serve, follow
//! and survive a restart of the scheduler all the same.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use harness::{Foreign, Model, Rest, SERVER, Shape, iris, rpc, scenario, until};
use http::StatusCode;

use crate::LOADS_WITHIN;
use crate::rollout::copy_of_iris;

const BOOTSTRAPS: [&str; 4] = ["sotw.yaml", "twin.yaml", "runtime.yaml", "per-type.yaml"];

/// An Envoy that nobody answers about its runtime is live after 15 s, one that is not answered otherwise after 30.
const LIVE_WITHIN: Duration = Duration::from_secs(10);

/// The default back-off of Envoy begins with half a second and doubles; the scheduler is away for a fraction of one.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(10);

/// Their streams end within milliseconds, as they are few.
const STOPS_WITHIN: Duration = Duration::from_secs(3);

/// What Envoys say about such bootstraps, and about a control plane that is gone for a moment.
const SAID: &[&str] = &[
    "gRPC config stream to xds_cluster closed",
    "option 'envoy.config.cluster.v3.Cluster.http2_protocol_options'",
    "global_downstream_max_connections",
    "caught ENVOY_SIGTERM",
];

#[test]
fn envoys_with_anybodys_bootstrap_serve_follow_and_survive_a_restart() {
    scenario("foreign envoys", Shape { replicas: 1, envoys: 0, ..Shape::default() }, async |stack| {
        stack.expect_log(SAID);
        stack.expect_log(&["scheduler is away", "no envoy is connected"]);
        let (second, third) = (copy_of_iris(stack.folder(), "second")?, copy_of_iris(stack.folder(), "third")?);
        let control = stack.control();
        control.declare(&Model::iris("iris")).await?;
        control.serves("iris", 1, LOADS_WITHIN).await?;

        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bootstraps");
        let envoys = BOOTSTRAPS.iter().map(|name| Foreign::new(stack, &folder.join(name)));
        let mut envoys = envoys.collect::<Result<Vec<_>>>()?;
        let times = try_join_all(envoys.iter_mut().map(Foreign::start)).await?;
        for (envoy, time) in envoys.iter().zip(times) {
            println!("{}: live after {} ms", envoy.name, time.as_millis());
            ensure!(time < LIVE_WITHIN, "{} was live only after {time:?}", envoy.name);
        }
        all_serve(&envoys, "iris_1").await?;

        control.declare(&Model::new("iris", &second)).await?;
        all_serve(&envoys, "iris_2").await?;

        let stopping = Instant::now();
        let status = stack.scheduler.part.stop().await?;
        println!("the scheduler stopped after {} ms", stopping.elapsed().as_millis());
        ensure!(status.success() && stopping.elapsed() < STOPS_WITHIN, "{status} after {:?}", stopping.elapsed());
        all_serve(&envoys, "iris_2").await?;
        stack.scheduler.start().await?;
        control.has_replicas(SERVER, 1, LOADS_WITHIN).await?;
        control.declare(&Model::new("iris", &third)).await?;
        all_serve(&envoys, "iris_3").await?;

        try_join_all(envoys.iter_mut().map(Foreign::stop)).await?;
        Ok(())
    });
}

/// Every one of them leads both protocols to this version.
async fn all_serve(envoys: &[Foreign], version: &str) -> Result<()> {
    let began = Instant::now();
    for envoy in envoys {
        let (rest, rpc) = (Rest::new(envoy.address()), rpc(envoy.address()));
        // While one version takes over from the other both serve.
        until(FOLLOWS_WITHIN, &format!("{} leads to {version}", envoy.name), async || {
            let answer = rest.infer("iris", iris::BODY).await?;
            ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
            ensure!(answer.header("x-seldon-route") == format!(":{version}:"), "{:?}", answer.headers);
            iris::check_json(&answer.body)?;
            let answer = rpc.clone().model_infer(iris::message("iris")).await?;
            ensure!(answer.get_ref().model_name == version, "gRPC: {answer:?}");
            iris::check_message(answer.get_ref())
        })
        .await?;
        println!("{}: {version} after {} ms", envoy.name, began.elapsed().as_millis());
    }
    Ok(())
}
