//! The scaling configuration, a file that is watched: `pipelines.maxShardCountMultiplier` says how many partitions a
//! pipeline's requests enter by where it says nothing itself (`spec/control-plane.md` §2.13). The rest of the file is not
//! for the scheduler.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::Stop;
use scheduler_core::Event;
use serde::Deserialize;
use tracing::{info, warn};

use crate::grpc::agents::Never;
use crate::handle::Scheduler;

/// How often it is looked at. A mounted ConfigMap changes by a link, which not every watch of the system sees.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Largest file that is read.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    pipelines: Pipelines,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Pipelines {
    max_shard_count_multiplier: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("read it")]
    Read(#[from] std::io::Error),
    #[error("it has more than {LARGEST} bytes")]
    Large,
    #[error("understand it")]
    Parse(#[from] serde_yaml_ng::Error),
}

/// The factor that the file sets; none if there is no file, or it does not say. YAML, of which JSON is a part.
fn factor(path: &Path) -> Result<Option<u32>, Error> {
    let text = match std::fs::metadata(path) {
        Ok(meta) if meta.len() > LARGEST => return Err(Error::Large),
        Ok(_) => std::fs::read_to_string(path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let file: File = serde_yaml_ng::from_str(&text)?;
    let multiplier = file.pipelines.max_shard_count_multiplier;
    // What is not above 0 counts as 1, as in the compatible system.
    Ok(multiplier.map(|multiplier| u32::try_from(multiplier.max(1)).unwrap_or(u32::MAX)))
}

/// Tells the machine of every change until the stop. A file that cannot be read changes nothing.
pub(crate) async fn run(path: PathBuf, scheduler: Scheduler, stop: Stop) -> Result<(), Never> {
    let (mut known, mut complained) = (None, String::new());
    loop {
        let looked = path.clone();
        let found = tokio::task::spawn_blocking(move || factor(&looked)).await;
        match found {
            Ok(Ok(factor)) if factor != known => {
                info!(file = %path.display(), ?factor, "the number of partitions for each pipeline changes");
                known = factor;
                complained.clear();
                scheduler.tell(Event::PartitionFactor(factor)).await;
            }
            Ok(Err(error)) => {
                let text = runtime::chain(&error);
                if text != complained {
                    warn!(file = %path.display(), error = text, "the scaling configuration is not changed");
                    complained = text;
                }
            }
            Ok(Ok(_)) | Err(_) => {}
        }
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::factor;

    #[test]
    fn the_multiplier_is_read_from_yaml_and_json_and_nothing_else_matters() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("scaling.yaml");
        let of = |text: &str| {
            std::fs::write(&path, text).expect("written");
            factor(&path)
        };
        assert_eq!(factor(&folder.path().join("none")).expect("no file, no factor"), None);
        assert_eq!(of("").expect("empty"), None);
        assert_eq!(of("models: {enabled: true}\n").expect("another part"), None);
        assert_eq!(of("pipelines:\n  maxShardCountMultiplier: 3\n").expect("YAML"), Some(3));
        assert_eq!(of(r#"{"pipelines": {"maxShardCountMultiplier": 0}}"#).expect("JSON"), Some(1));
        assert!(of("pipelines: {maxShardCountMultiplier: many}").is_err());
        assert!(of("pipelines: [").is_err());
    }
}
