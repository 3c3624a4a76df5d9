//! `session`: the routes that the last answer to a sticky call came by, separated by commas.

use std::path::{Path, PathBuf};

use super::{Error, read, replace};

const FILE: &str = "session";

/// The session file of a folder.
#[derive(Debug)]
pub(crate) struct Session {
    path: PathBuf,
}

impl Session {
    pub(crate) fn open(folder: &Path) -> Session {
        Session { path: folder.join(FILE) }
    }

    /// What was stored last.
    pub(crate) fn routes(&self) -> Result<Vec<String>, Error> {
        let text = read(&self.path)?.unwrap_or_default();
        let routes = text.split(',').map(str::trim).filter(|route| !route.is_empty());
        Ok(routes.map(str::to_owned).collect())
    }

    /// Stores what the next call sends.
    pub(crate) fn store(&self, routes: &[String]) -> Result<(), Error> {
        replace(&self.path, &routes.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::Session;

    #[test]
    fn routes_are_given_back_and_nothing_is_not_a_route() {
        let home = tempfile::tempdir().expect("a folder");
        let session = Session::open(&home.path().join("a/b"));
        assert_eq!(session.routes().expect("nothing yet"), [""; 0]);
        let routes = [":iris_1:".to_owned(), ":iris_2:".to_owned()];
        session.store(&routes).expect("stored");
        assert_eq!(session.routes().expect("stored"), routes);
        assert_eq!(std::fs::read_to_string(home.path().join("a/b/session")).expect("text"), ":iris_1:,:iris_2:");
        session.store(&[]).expect("stored");
        assert_eq!(session.routes().expect("stored"), [""; 0]);
    }
}
