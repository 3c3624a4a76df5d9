//! Why the program ends with an error: the errors of its modules under one roof, and how they are told.

use std::io;

use crate::{address, client, config, manifest, output, part, seldon, up, verb, wait};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Address(#[from] address::Error),
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Seldon(#[from] seldon::Error),
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    #[error(transparent)]
    Output(#[from] output::Error),
    #[error(transparent)]
    Part(#[from] part::Error),
    #[error(transparent)]
    Store(#[from] verb::store::StoreError),
    #[error(transparent)]
    Up(#[from] up::Error),
    #[error(transparent)]
    Verb(#[from] verb::Error),
    #[error(transparent)]
    Wait(#[from] wait::Error),
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
}

impl Error {
    /// Nobody reads our output any more.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Error::Output(output::Error::Closed))
    }
}
