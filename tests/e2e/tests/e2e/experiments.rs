//! An experiment over real models, from its start to its end, under load.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Control, Model, Rest, Rpc, Shape, Stack, iris, scenario, until, with_metadata};
use messages::scheduler as wire;
use tonic::Code;

use crate::{LOADS_WITHIN, RATE};

/// Requests of one tally; with weights 8 and 2 the share of the lesser has a standard deviation of 40.
const REQUESTS: usize = 10_000;
/// Clients that send them side by side.
const CLIENTS: usize = 16;
/// Six standard deviations.
const TOLERANCE: usize = 240;
/// How long the load runs before, between and after what happens.
const WINDOW: Duration = Duration::from_millis(300);

fn split(candidates: &[(&str, u32)], mirror: Option<(&str, u32)>) -> wire::Experiment {
    let candidate =
        |(name, weight): &(&str, u32)| wire::ExperimentCandidate { name: (*name).to_owned(), weight: *weight };
    wire::Experiment {
        name: "split".to_owned(),
        default: Some("a".to_owned()),
        candidates: candidates.iter().map(candidate).collect(),
        mirror: mirror.map(|(name, percent)| wire::ExperimentMirror { name: name.to_owned(), percent }),
        ..Default::default()
    }
}

async fn start(control: &Control, experiment: wire::Experiment) -> Result<(), tonic::Status> {
    let request = wire::StartExperimentRequest { experiment: Some(experiment) };
    control.client().start_experiment(request).await.map(|_| ())
}

async fn is_active(control: &Control, active: bool) -> Result<String> {
    until(LOADS_WITHIN, &format!("the experiment is active: {active}"), async || {
        let request = wire::ExperimentStatusRequest { name: Some("split".to_owned()), ..Default::default() };
        let mut answers = control.client().experiment_status(request).await?.into_inner();
        let status = answers.message().await?.context("no status")?;
        if status.active == active { Ok(status.status_description) } else { bail!("{status:?}") }
    })
    .await
}

/// Who answered how often, half of the requests by REST with the name in the path, half by gRPC with the name in the
/// message.
async fn tally(stack: &Stack, name: &str, requests: usize) -> Result<BTreeMap<String, usize>> {
    let clients = (0..CLIENTS).map(|_| {
        let (rest, mut rpc, name) = (stack.rest(), stack.rpc(), name.to_owned());
        tokio::spawn(async move {
            let mut routes: BTreeMap<String, usize> = BTreeMap::new();
            for number in 0..requests / CLIENTS {
                let route = match number % 2 {
                    0 => by_rest(&rest, &name, None).await?,
                    _ => by_grpc(&mut rpc, &name, None).await?,
                };
                *routes.entry(route).or_default() += 1;
            }
            anyhow::Ok(routes)
        })
    });
    let mut sum: BTreeMap<String, usize> = BTreeMap::new();
    for client in clients.collect::<Vec<_>>() {
        for (route, count) in client.await?? {
            *sum.entry(route).or_default() += count;
        }
    }
    Ok(sum)
}

async fn by_rest(rest: &Rest, name: &str, route: Option<&str>) -> Result<String> {
    let json = ("content-type", "application/json");
    let headers: Vec<(&str, &str)> = [json].into_iter().chain(route.map(|route| ("x-seldon-route", route))).collect();
    let answer = rest.post(&format!("/v2/models/{name}/infer"), &headers, iris::BODY).await?;
    ensure!(answer.status.is_success(), "{} {}", answer.status, answer.body);
    iris::check_json(&answer.body)?;
    Ok(answer.header("x-seldon-route").to_owned())
}

async fn by_grpc(rpc: &mut Rpc, name: &str, route: Option<&str>) -> Result<String> {
    let metadata: Vec<(&'static str, &str)> = route.map(|route| ("x-seldon-route", route)).into_iter().collect();
    let answer = rpc.model_infer(with_metadata(iris::message(name), &metadata)).await?;
    iris::check_message(answer.get_ref())?;
    let route = answer.metadata().get("x-seldon-route").and_then(|value| value.to_str().ok());
    Ok(route.unwrap_or_default().to_owned())
}

/// Every answer to a client that brings a route along has that route.
async fn sticks(stack: &Stack, name: &str, route: &str) -> Result<()> {
    let (rest, mut rpc) = (stack.rest(), stack.rpc());
    for _ in 0..40 {
        for answered in [by_rest(&rest, name, Some(route)).await?, by_grpc(&mut rpc, name, Some(route)).await?] {
            ensure!(answered == route, "{name}: {route} was asked for, {answered} answered");
        }
    }
    Ok(())
}

fn only(route: &str, tally: &BTreeMap<String, usize>) -> Result<()> {
    ensure!(tally.keys().all(|other| other == route), "only {route} may answer: {tally:?}");
    Ok(())
}

#[test]
fn experiment_splits_sticks_mirrors_and_ends_without_losing_a_request() {
    scenario("experiments", Shape::default(), async |stack| {
        let control = stack.control();
        for name in ["a", "b"] {
            control.declare(&Model::iris(name).replicas(2)).await?;
            control.serves(name, 2, LOADS_WITHIN).await?;
        }
        // It knows no input `X`: every copy that it gets fails.
        control.declare(&Model::new("shadow", &harness::sample("identity"))).await?;
        control.serves("shadow", 1, LOADS_WITHIN).await?;
        let load = stack.load(&["a"], RATE);
        load.window(WINDOW).await;

        let started = std::time::Instant::now();
        start(&control, split(&[("a", 8), ("b", 2)], Some(("shadow", 100)))).await?;
        is_active(&control, true).await?;
        println!("experiments: active after {} ms", started.elapsed().as_millis());
        let began = std::time::Instant::now();
        let seen = tally(stack, "split.experiment", REQUESTS).await?;
        println!("experiments: {seen:?} of {REQUESTS} in {} ms", began.elapsed().as_millis());
        let lesser = seen.get(":b_1:").copied().unwrap_or_default();
        ensure!(lesser.abs_diff(REQUESTS / 5) < TOLERANCE, "8 to 2 is {seen:?}");
        ensure!(seen.len() == 2, "nobody else answers: {seen:?}");
        let seen = tally(stack, "a", REQUESTS / 10).await?;
        ensure!(seen.contains_key(":a_1:") && seen.contains_key(":b_1:"), "the default's name is split: {seen:?}");
        only(":b_1:", &tally(stack, "b", 32).await?)?;
        for name in ["a", "split.experiment"] {
            sticks(stack, name, ":a_1:").await?;
            sticks(stack, name, ":b_1:").await?;
        }

        // Weights are replaced at once; a second experiment may not have the same default.
        start(&control, split(&[("a", 0), ("b", 1)], None)).await?;
        is_active(&control, true).await?;
        only(":b_1:", &tally(stack, "a", 320).await?)?;
        sticks(stack, "a", ":a_1:").await?;
        let second = wire::Experiment { name: "second".to_owned(), ..split(&[("a", 1)], None) };
        let refused = start(&control, second).await.err().context("a second experiment with the same default")?;
        ensure!(refused.code() == Code::FailedPrecondition && refused.message().contains("split"), "{refused:?}");

        // A candidate is lost and comes back; a client that sticks to it is served by the others meanwhile.
        start(&control, split(&[("a", 8), ("b", 2)], None)).await?;
        is_active(&control, true).await?;
        control.remove("b").await?;
        let why = is_active(&control, false).await?;
        println!("experiments: without b it says: {why}");
        control.is_gone("b", LOADS_WITHIN).await?;
        for name in ["a", "split.experiment"] {
            only(":a_1:", &tally(stack, name, 160).await?)?;
            let answered = by_rest(&stack.rest(), name, Some(":b_1:")).await?;
            ensure!(answered == ":a_1:", "{name}: b is gone, {answered} answered");
        }
        control.declare(&Model::iris("b").replicas(2)).await?;
        is_active(&control, true).await?;
        let seen = tally(stack, "a", REQUESTS / 10).await?;
        ensure!(seen.len() == 2, "both answer again: {seen:?}");
        load.window(WINDOW).await;

        control.client().stop_experiment(wire::StopExperimentRequest { name: "split".to_owned() }).await?;
        until(LOADS_WITHIN, "the experiment's name is gone", async || {
            match stack.rest().infer("split.experiment", iris::BODY).await?.status.as_u16() {
                404 => Ok(()),
                status => bail!("{status}"),
            }
        })
        .await?;
        let gone = stack.rpc().model_infer(iris::message("split.experiment")).await.err().context("it is gone")?;
        ensure!(gone.code() == Code::Unimplemented && gone.message().contains("split.experiment"), "{gone:?}");
        only(":a_1:", &tally(stack, "a", 320).await?)?;
        load.window(WINDOW).await;

        let traffic = load.stop().await?;
        println!("experiments: {}, by route {:?}", traffic.summary(), traffic.routes());
        traffic.none_failed()
    });
}

#[test]
fn models_without_replicas_are_503_at_once_and_removed_ones_are_404() {
    scenario("absent", Shape { replicas: 1, ..Shape::default() }, async |stack| {
        let control = stack.control();
        control.declare(&Model::iris("iris")).await?;
        control.serves("iris", 1, LOADS_WITHIN).await?;
        let absent = async |what: &str, status: u16, code: Code| -> Result<()> {
            until(LOADS_WITHIN, what, async || match stack.rest().infer("iris", iris::BODY).await? {
                answer if answer.status.as_u16() == status => {
                    ensure!(answer.error()?.contains("iris"), "{answer:?}");
                    Ok(())
                }
                answer => bail!("{answer:?}"),
            })
            .await?;
            let refused = stack.rpc().model_infer(iris::message("iris")).await.err().context(what.to_owned())?;
            ensure!(refused.code() == code && refused.message().contains("iris"), "{refused:?}");
            Ok(())
        };
        control.declare(&Model::iris("iris").replicas(0)).await?;
        control.reaches("iris", harness::State::ModelScaledDown, LOADS_WITHIN).await?;
        absent("a model without replicas", 503, Code::Unavailable).await?;
        control.declare(&Model::iris("iris")).await?;
        control.serves("iris", 1, LOADS_WITHIN).await?;
        iris::check_json(&stack.rest().infer("iris", iris::BODY).await?.body)?;
        control.remove("iris").await?;
        control.is_gone("iris", LOADS_WITHIN).await?;
        absent("a removed model", 404, Code::Unimplemented).await
    });
}
