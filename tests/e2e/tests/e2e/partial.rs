//! Fewer replicas than wished, more of them later, and a replica that leaves in good order.

use std::time::Duration;

use anyhow::ensure;
use harness::{Model, SERVER, Shape, State, scenario};

use crate::{LOADS_WITHIN, RATE};

/// How long the load runs before, between and after what happens.
const WINDOW: Duration = Duration::from_millis(500);

#[test]
fn model_serves_on_what_fits_grows_by_itself_and_survives_a_drain() {
    scenario("partial", Shape::default(), async |stack| {
        let control = stack.control();
        control.declare(&Model::iris("iris").replicas(3)).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        let reason = control.reaches("iris", State::ScheduleFailed, LOADS_WITHIN).await?;
        println!("partial: the status says: {reason}");
        ensure!(reason.starts_with("2 of 3 replicas: "), "{reason}");
        control.declare(&Model::iris("single")).await?;
        control.serves("single", 1, LOADS_WITHIN).await?;
        let load = stack.load(&["iris", "single"], RATE);
        load.window(WINDOW).await;

        // A third replica comes.
        let added = std::time::Instant::now();
        stack.add_agent().await?;
        control.serves("iris", 3, LOADS_WITHIN).await?;
        control.reaches("iris", State::ModelAvailable, LOADS_WITHIN).await?;
        println!(
            "partial: a model has grown to 3 replicas {} ms after a replica was added",
            added.elapsed().as_millis()
        );

        // A wish that cannot be met takes nothing away.
        control.declare(&Model::iris("iris").replicas(5)).await?;
        let reason = control.reaches("iris", State::ScheduleFailed, LOADS_WITHIN).await?;
        ensure!(reason.starts_with("3 of 5 replicas: "), "{reason}");
        control.serves("iris", 3, LOADS_WITHIN).await?;
        load.window(WINDOW).await;

        // The replica that has the single model leaves.
        let versions = control.versions("single").await?;
        let states = versions.last().map(|version| version.model_replica_state.clone()).unwrap_or_default();
        let leaving = states.keys().next().and_then(|index| u32::try_from(*index).ok()).unwrap_or_default();
        let drained = std::time::Instant::now();
        stack.scheduler.drain(SERVER, leaving).await?;
        println!("partial: replica {leaving} was drained within {} ms", drained.elapsed().as_millis());
        let position = usize::try_from(leaving)?;
        let status = stack.agents[position].part.stop().await?;
        ensure!(status.success(), "{status}");
        control.serves("iris", 2, LOADS_WITHIN).await?;
        control.serves("single", 1, LOADS_WITHIN).await?;
        load.window(WINDOW).await;

        let traffic = load.stop().await?;
        println!("partial: {}", traffic.summary());
        traffic.none_failed()
    });
}
