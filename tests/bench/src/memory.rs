//! What an installation uses that has nothing to do.

use std::time::Duration;

use anyhow::Result;
use harness::Model;

use crate::Size;
use crate::installation::Installation;
use crate::process::{memory, processor_time};
use crate::table::Table;

pub(crate) async fn run(size: Size) -> Result<()> {
    let installation = Installation::start(2).await?;
    installation.load(&Model::iris("iris"), "iris").await?;
    let parent = installation.pid;
    let children = crate::process::children(parent)?;
    let before = processor_time(parent)?;
    // What the figures are of: an idle window of this length.
    let idle = size.pick(Duration::from_secs(10), Duration::from_secs(1));
    tokio::time::sleep(idle).await;
    let spent = processor_time(parent)?.saturating_sub(before);

    let mut table = Table::new(&["idle, one model, two replicas", "resident MB", "proportional MB"]);
    let mega = |kilo: u64| {
        let (whole, rest) = (kilo / 1_000, kilo % 1_000 / 100);
        format!("{whole}.{rest}")
    };
    let mut row = |name: &str, pid: u32| -> Result<()> {
        let memory = memory(pid)?;
        table.row([name.to_owned(), mega(memory.resident * 1_024 / 1_000), mega(memory.proportional * 1_024 / 1_000)]);
        Ok(())
    };
    row("`switchyard up`: scheduler, launcher, 2 agents (aim ≤ 60)", parent)?;
    for child in &children {
        row(&format!("child {}", child.name()), child.pid)?;
    }
    table.print();
    println!(
        "\n`switchyard up` used {:.2} % of a core in {} idle seconds. The compatible system: 569 MB (observed).",
        spent.as_secs_f64() / idle.as_secs_f64() * 100.0,
        idle.as_secs()
    );
    installation.stop().await
}
