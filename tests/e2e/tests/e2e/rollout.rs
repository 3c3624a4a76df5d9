//! New versions of a model under load.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use harness::{Model, Shape, State, scenario, until};

use crate::{LOADS_WITHIN, RATE};

/// How long the load runs before, between and after what happens.
const WINDOW: std::time::Duration = std::time::Duration::from_millis(500);

/// Another artifact that is the same model.
pub fn copy_of_iris(folder: &Path, name: &str) -> Result<PathBuf> {
    let copy = folder.join(name);
    std::fs::create_dir_all(&copy)?;
    std::fs::copy(harness::sample("iris").join("model.onnx"), copy.join("model.onnx"))?;
    Ok(copy)
}

/// An artifact that begins like a model and is none.
pub fn broken_iris(folder: &Path, name: &str) -> Result<PathBuf> {
    let copy = copy_of_iris(folder, name)?;
    let bytes = std::fs::read(copy.join("model.onnx"))?;
    std::fs::write(copy.join("model.onnx"), bytes.get(..bytes.len() / 2).unwrap_or_default())?;
    Ok(copy)
}

#[test]
fn new_versions_lose_no_request_and_broken_ones_disturb_nobody() {
    scenario("rollout", Shape { envoys: 2, ..Shape::default() }, async |stack| {
        stack.expect_log(&["load failed"]);
        let control = stack.control();
        let (second, broken) = (copy_of_iris(stack.folder(), "second")?, broken_iris(stack.folder(), "broken")?);
        control.declare(&Model::iris("iris").replicas(2)).await?;
        control.serves("iris", 2, LOADS_WITHIN).await?;
        let load = stack.load(&["iris"], RATE);
        load.window(WINDOW).await;

        // A good one takes over.
        let declared = std::time::Instant::now();
        control.declare(&Model::new("iris", &second).replicas(2)).await?;
        until(LOADS_WITHIN, "the second version alone serves", async || {
            let versions = control.versions("iris").await?;
            let serving = |version: &messages::scheduler::ModelVersionStatus| {
                version.state.as_ref().map_or(0, |state| state.available_replicas)
            };
            match versions.iter().map(|version| (version.version, serving(version))).collect::<Vec<_>>().as_slice() {
                [.., (2, 2)] if versions.iter().all(|version| version.version == 2 || serving(version) == 0) => Ok(()),
                other => bail!("{other:?}"),
            }
        })
        .await?;
        println!("rollout: the second version alone serves after {} ms", declared.elapsed().as_millis());
        load.window(WINDOW).await;

        // A broken one does not.
        control.declare(&Model::new("iris", &broken).replicas(2)).await?;
        let reason = control.reaches("iris", State::ModelFailed, LOADS_WITHIN).await?;
        println!("rollout: the broken version says: {reason}");
        ensure!(reason.contains("model.onnx"), "the reason names the file: {reason}");
        load.window(WINDOW).await;

        // Back to what worked.
        control.declare(&Model::new("iris", &second).replicas(2)).await?;
        control.reaches("iris", State::ModelAvailable, LOADS_WITHIN).await?;
        let last = control.serves("iris", 2, LOADS_WITHIN).await?;
        load.window(WINDOW).await;
        let after = std::time::Instant::now();
        load.window(WINDOW).await;

        let traffic = load.stop().await?;
        println!("rollout: {}, by route {:?}", traffic.summary(), traffic.routes());
        traffic.none_failed()?;
        let routes = traffic.routes();
        let expected = [":iris_1:".to_owned(), ":iris_2:".to_owned(), format!(":iris_{last}:")];
        ensure!(expected.iter().all(|route| routes.contains_key(route)), "every good version answered: {routes:?}");
        ensure!(routes.keys().all(|route| expected.contains(route)), "no broken version answered: {routes:?}");
        let late = traffic.outcomes.iter().filter(|outcome| outcome.started > after);
        let mut late = late.filter_map(|outcome| outcome.result.as_ref().ok());
        ensure!(late.all(|answered| answered.route == expected[2]), "only the last version answers at the end");
        Ok(())
    });
}
