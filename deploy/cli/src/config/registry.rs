//! `configs.json`: configurations by key, and which one is active.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, Error, read, replace};

const FILE: &str = "configs.json";

/// The registry of a folder. What is changed in it is on disk when the call returns.
#[derive(Debug)]
pub(crate) struct Registry {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    configs: BTreeMap<String, PathBuf>,
    active: String,
}

/// The active configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Active {
    pub(crate) key: String,
    pub(crate) config: Config,
}

impl Registry {
    /// The one in `folder`; empty when nothing was kept there yet.
    pub(crate) fn open(folder: &Path) -> Result<Registry, Error> {
        let path = folder.join(FILE);
        let content = match read(&path)? {
            Some(text) => {
                serde_json::from_str(&text).map_err(|cause| Error::BadRegistry { path: path.clone(), cause })?
            }
            None => Content::default(),
        };
        Ok(Registry { path, content })
    }

    /// Key, path, and whether it is active.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&str, &Path, bool)> {
        let active = self.content.active.as_str();
        self.content.configs.iter().map(move |(key, path)| (key.as_str(), path.as_path(), key == active))
    }

    /// The text of a configuration.
    pub(crate) fn text(&self, key: &str) -> Result<String, Error> {
        let path = self.path_of(key)?;
        checked(path).map(|(text, _)| text)
    }

    /// What is active, if anything is.
    pub(crate) fn active(&self) -> Result<Option<Active>, Error> {
        let key = &self.content.active;
        if key.is_empty() {
            return Ok(None);
        }
        let config = self.path_of(key).and_then(checked);
        let (_, config) = config.map_err(|cause| Error::Active { key: key.clone(), cause: Box::new(cause) })?;
        Ok(Some(Active { key: key.clone(), config }))
    }

    /// Adds a configuration, or gives the key another one. A relative path would mean another file in another folder.
    pub(crate) fn add(&mut self, key: &str, path: &Path) -> Result<(), Error> {
        if key.is_empty() {
            return Err(Error::EmptyKey);
        }
        checked(path)?;
        let absolute = std::path::absolute(path).map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
        self.content.configs.insert(key.to_owned(), absolute);
        self.save()
    }

    /// Makes a configuration the active one.
    pub(crate) fn activate(&mut self, key: &str) -> Result<(), Error> {
        checked(self.path_of(key)?)?;
        key.clone_into(&mut self.content.active);
        self.save()
    }

    /// Leaves no configuration active.
    pub(crate) fn deactivate(&mut self, key: &str) -> Result<(), Error> {
        if self.content.active != key {
            self.path_of(key)?;
            let active = Some(self.content.active.clone()).filter(|active| !active.is_empty());
            return Err(Error::NotActive { key: key.to_owned(), active });
        }
        self.content.active.clear();
        self.save()
    }

    /// Removes a configuration; its file stays.
    pub(crate) fn remove(&mut self, key: &str) -> Result<(), Error> {
        self.path_of(key)?;
        self.content.configs.remove(key);
        if self.content.active == key {
            self.content.active.clear();
        }
        self.save()
    }

    fn path_of(&self, key: &str) -> Result<&Path, Error> {
        self.content.configs.get(key).map(PathBuf::as_path).ok_or_else(|| Error::Unknown { key: key.to_owned() })
    }

    fn save(&self) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(&self.content)
            .map_err(|cause| Error::BadRegistry { path: self.path.clone(), cause })?;
        replace(&self.path, &text)
    }
}

/// A configuration's file, as text and as what it says.
fn checked(path: &Path) -> Result<(String, Config), Error> {
    let missing = || Error::Read { path: path.to_owned(), cause: std::io::ErrorKind::NotFound.into() };
    let text = read(path)?.ok_or_else(missing)?;
    let config = serde_json::from_str(&text).map_err(|cause| Error::BadConfig { path: path.to_owned(), cause })?;
    Ok((text, config))
}

#[cfg(test)]
mod tests {
    use super::{Error, Registry};

    #[test]
    fn a_registry_is_kept_in_a_folder_that_did_not_exist() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("a/b");
        let file = home.path().join("one.json");
        std::fs::write(&file, r#"{"controlplane": {"schedulerHost": "s:1"}, "kafka": {"namespace": "x"}}"#)
            .expect("write");
        let mut registry = Registry::open(&folder).expect("an empty one");
        assert_eq!(registry.entries().count(), 0);
        registry.add("one", &file).expect("added");
        registry.add("two", &file).expect("added");
        assert_eq!(registry.active().expect("none"), None);
        registry.activate("one").expect("activated");
        let mut registry = Registry::open(&folder).expect("the same");
        let entries: Vec<_> =
            registry.entries().map(|(key, path, active)| (key.to_owned(), path.to_owned(), active)).collect();
        assert_eq!(entries, [("one".to_owned(), file.clone(), true), ("two".to_owned(), file.clone(), false)]);
        let active = registry.active().expect("readable").expect("one");
        assert_eq!((active.key.as_str(), active.config.controlplane.scheduler_host.as_str()), ("one", "s:1"));
        registry.deactivate("one").expect("deactivated");
        registry.activate("two").expect("activated");
        registry.remove("two").expect("removed");
        let registry = Registry::open(&folder).expect("the same");
        assert_eq!(registry.active().expect("none"), None);
        assert_eq!(registry.entries().count(), 1);
    }

    #[test]
    fn what_is_not_there_is_refused_and_changes_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let (file, bad) = (home.path().join("one.json"), home.path().join("bad.json"));
        std::fs::write(&file, "{}").expect("write");
        std::fs::write(&bad, "{\"dataplane\": 3}").expect("write");
        let mut registry = Registry::open(home.path()).expect("an empty one");
        registry.add("one", &file).expect("added");
        assert!(matches!(registry.add("", &file), Err(Error::EmptyKey)));
        assert!(matches!(registry.add("bad", &bad), Err(Error::BadConfig { .. })));
        assert!(matches!(registry.add("none", &home.path().join("none")), Err(Error::Read { .. })));
        for refused in [registry.activate("none"), registry.deactivate("none"), registry.remove("none")] {
            assert!(matches!(refused, Err(Error::Unknown { .. })), "{refused:?}");
        }
        assert!(matches!(registry.deactivate("one"), Err(Error::NotActive { active: None, .. })));
        registry.activate("one").expect("activated");
        std::fs::remove_file(&file).expect("removed");
        let error = Registry::open(home.path()).expect("the registry is good").active().expect_err("its file is gone");
        assert!(error.to_string().contains("config deactivate one"), "{error}");
        std::fs::write(home.path().join("configs.json"), "{\"configs\": 3}").expect("write");
        assert!(matches!(Registry::open(home.path()), Err(Error::BadRegistry { .. })));
    }
}
