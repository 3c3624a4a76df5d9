//! Where the samples of this repository are.

use std::path::{Path, PathBuf};

/// The folder of the repository.
#[must_use]
pub fn root() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    crates.into_iter().nth(2).expect("this crate is two folders below the root").to_owned()
}

/// The folder of a sample model.
#[must_use]
pub fn sample(model: &str) -> PathBuf {
    root().join("samples/models").join(model)
}
