//! The data folder: whose it is, how old it is, and what happens when it is full.

use std::sync::Arc;

use messages::scheduler::model_status::ModelState;
use scheduler::{Config, Error, Listeners, OpenError};
use tonic::Code;

use crate::agent::Identity;
use crate::declare::Draft;
use crate::envoy::Envoy;
use crate::world::{World, refused};

async fn second(config: Config) -> Error {
    let bind = || tokio::net::TcpListener::bind(("127.0.0.1", 0));
    let listeners = Listeners {
        xds: bind().await.unwrap(),
        control: bind().await.unwrap(),
        agents: bind().await.unwrap(),
        workers: bind().await.unwrap(),
    };
    scheduler::run(config, listeners, runtime::Stop::new()).await.expect_err("it is refused")
}

#[tokio::test]
async fn folder_in_use_is_refused_and_its_owner_goes_on() {
    let world = World::start().await;
    let error = second(Config::new(world.dir().to_owned())).await;
    assert!(matches!(&error, Error::Store(OpenError::InUse { path }) if path == world.dir()), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    world.load(&Draft::of("iris")).await.unwrap();
    let world = world.restart().await;
    assert_eq!(world.latest("iris").await.version, 1);
}

#[tokio::test]
async fn folder_of_a_newer_version_is_refused_and_left_alone() {
    let world = World::start().await;
    world.load(&Draft::of("iris")).await.unwrap();
    let dir = world.stop().await;
    set_schema(dir.path(), scheduler::SCHEMA + 1);
    let error = second(Config::new(dir.path().to_owned())).await;
    let newer = |error: &Error| matches!(error, Error::Store(OpenError::Newer { found, .. }) if *found == scheduler::SCHEMA + 1);
    assert!(newer(&error), "{error}");
    assert!(error.to_string().contains("use the newer version"), "{error}");
    set_schema(dir.path(), scheduler::SCHEMA);
    let world = World::start_with(dir, |_| {}).await;
    assert_eq!(world.latest("iris").await.version, 1);
}

/// Writes the number of the record format as another version would.
fn set_schema(dir: &std::path::Path, schema: u32) {
    use heed::types::{Bytes, Str};
    let mut options = heed::EnvOpenOptions::new();
    options.max_dbs(3);
    // SAFETY: the scheduler that had the folder has ended, and nobody else knows it.
    #[expect(unsafe_code, reason = "LMDB cannot be opened without it; see the SAFETY note")]
    let env = unsafe { options.open(dir.join("store")) }.unwrap();
    let mut writer = env.write_txn().unwrap();
    let meta: heed::Database<Str, Bytes> = env.open_database(&writer, Some("meta")).unwrap().unwrap();
    meta.put(&mut writer, "schema", &schema.to_le_bytes()).unwrap();
    writer.commit().unwrap();
    env.prepare_for_closing().wait();
}

#[tokio::test]
async fn full_store_refuses_declarations_and_goes_on_with_what_it_has() {
    const SMALL: u64 = 1 << 20;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let world = World::start_with(dir, |config| config.store_bytes = SMALL).await;
    let agent = Identity::of("onnx", 0).subscribe(&world).await;
    let envoy = Envoy::start(&world, "first").await;
    world.load(&Draft::of("running")).await.unwrap();
    world.until_state("running", 1, ModelState::ModelAvailable).await;
    let mut accepted = Vec::new();
    let text = loop {
        let name = format!("model-{}", accepted.len());
        let draft = Draft::of(&name).uri(&"x".repeat(50_000)).memory(1_000);
        match world.load(&draft).await {
            Ok(()) => accepted.push(name),
            outcome => break refused(outcome, Code::ResourceExhausted),
        }
        assert!(accepted.len() < 200, "it is never full");
    };
    assert!(text.contains("disk is nearly full") && text.contains("bytes more"), "{text}");
    assert!(accepted.len() > 3, "{}", accepted.len());
    // Many at once are not let in either.
    let one_more = Draft::of("one-more").uri(&"x".repeat(60_000));
    let several = futures_util::future::join_all((0..50).map(|_| world.load(&one_more))).await;
    for outcome in several {
        refused(outcome, Code::ResourceExhausted);
    }
    // What runs goes on: it is routed, agents come and go, models can be removed.
    assert!(world.is_healthy().await);
    assert_eq!(envoy.now().shares("running"), Some(vec![("running_1".to_owned(), 100)]));
    let agent = agent.disconnect().emptied().subscribe(&world).await;
    agent.told("load running 1").await;
    envoy.until_shares("running", &[("running_1", 100)]).await;
    world.until_state("running", 1, ModelState::ModelAvailable).await;

    let world = World::start_with(world.stop().await, |config| config.store_bytes = SMALL).await;
    let listed: std::collections::BTreeSet<String> =
        world.statuses(None, false).await.unwrap().0.into_iter().map(|status| status.model_name).collect();
    let expected = accepted.iter().cloned().chain(["running".to_owned()]).collect();
    assert_eq!(listed, expected, "nothing that was accepted is lost");
    let envoy = envoy.reconnect(&world).await;
    assert_eq!(envoy.now().shares("running"), Some(vec![("running_1".to_owned(), 100)]));
    // Room is made by removing.
    let removals = accepted.iter().map(|name| world.unload(name, None));
    for outcome in futures_util::future::join_all(removals).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn many_declarations_at_once_do_not_overrun_a_small_store() {
    const SMALL: u64 = 1 << 20;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let world = World::start_with(dir, |config| config.store_bytes = SMALL).await;
    let drafts: Vec<Draft> =
        (0..100).map(|index| Draft::of(&format!("model-{index}")).uri(&"x".repeat(60_000))).collect();
    let outcomes = futures_util::future::join_all(drafts.iter().map(|draft| world.load(draft))).await;
    let (accepted, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert!(!accepted.is_empty() && !refusals.is_empty(), "{} {}", accepted.len(), refusals.len());
    for outcome in refusals {
        refused(outcome, Code::ResourceExhausted);
    }
    let world = World::start_with(world.stop().await, |config| config.store_bytes = SMALL).await;
    assert_eq!(world.statuses(None, false).await.unwrap().0.len(), accepted.len());
}

#[tokio::test]
async fn definition_that_is_too_large_is_refused_and_named() {
    let world = World::start().await;
    let parameter = || messages::scheduler::ParameterSpec { name: "p".into(), value: "x".repeat(60_000) };
    let draft = Draft::of("iris").spec(|spec| spec.parameters = (0..500).map(|_| parameter()).collect());
    let text = refused(world.load(&draft).await, Code::FailedPrecondition);
    assert!(text.contains("bytes"), "{text}");
    let long = Draft::of("iris").spec(|spec| {
        use messages::scheduler::storage_config::Config::StorageRcloneConfig;
        let config = Some(StorageRcloneConfig("x".repeat(30_000_000)));
        spec.storage_config = Some(messages::scheduler::StorageConfig { config });
    });
    refused(world.load(&long).await, Code::FailedPrecondition);
    assert_eq!(world.statuses(None, false).await.unwrap().0, []);
}
