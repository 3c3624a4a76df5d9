//! Many models at once: the path of each is the same as that of one.

use std::time::Instant;

use futures_util::StreamExt;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::World;

/// Enough that anything that costs more with each model is seen; `SWITCHYARD_MANY` measures with another number.
const MODELS: usize = 1_000;

/// Declarations on their way at a time, as a busy installer has them.
const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_models_become_available() {
    let models = std::env::var("SWITCHYARD_MANY").ok().and_then(|text| text.parse().ok()).unwrap_or(MODELS);
    let world = World::start().await;
    let _agent = Identity::of("onnx", 0).memory(u64::MAX / 2).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    let started = Instant::now();
    let loads = futures_util::stream::iter(0..models).map(|index| {
        let (world, draft) = (&world, Draft::of(&format!("model-{index}")));
        async move { world.load(&draft).await }
    });
    let outcomes: Vec<_> = loads.buffer_unordered(AT_ONCE).collect().await;
    for outcome in outcomes {
        outcome.unwrap();
    }
    let declared = started.elapsed();
    envoy.until("all models", |seen| seen.models() == models).await;
    let told = world.told.clone();
    let available = |told: &crate::world::Told| {
        let last: std::collections::BTreeMap<_, _> =
            told.0.iter().map(|status| (&status.model_name, crate::world::state_of(&status.versions[0]))).collect();
        last.values().filter(|state| **state == messages::scheduler::model_status::ModelState::ModelAvailable).count()
    };
    let seen = envoy.now();
    assert_eq!(seen.models(), models);
    crate::world::loop_until("all are available", async || {
        let statuses = world.statuses(None, false).await.unwrap();
        let count = available(&statuses);
        if count == models { Ok(()) } else { Err(format!("{count}")) }
    })
    .await;
    let took = started.elapsed();
    let _statuses = told;
    println!("{models} models: declared in {declared:?}, available in {took:?}");
}
