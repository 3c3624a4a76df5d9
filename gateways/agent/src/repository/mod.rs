//! Copies of artifacts, laid out for the inference server: `<folder>/models/<model>_<version>/`.
//!
//! Invariant: a folder below `models` is whole; a copy under way is in `incoming` and is moved when it is complete.

pub(crate) mod onnx;

use std::io;
use std::path::{Path, PathBuf};

use domain::ModelVersionId;

use crate::fetch::{self, Limits};
use onnx::Artifact;

/// Why an artifact is not in the repository.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("fetch the artifact")]
    Fetch(#[from] fetch::Error),
    #[error("artifact")]
    Artifact(#[from] onnx::Error),
    #[error("{action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Repository {
    models: PathBuf,
    incoming: PathBuf,
    roots: Vec<PathBuf>,
    limits: Limits,
}

impl Repository {
    pub(crate) fn new(folder: &Path, roots: Vec<PathBuf>, limits: Limits) -> Self {
        Self { models: folder.join("models"), incoming: folder.join("incoming"), roots, limits }
    }

    /// Where the inference server looks for models.
    pub(crate) fn models(&self) -> &Path {
        &self.models
    }

    /// Removes what an earlier process left. Blocks.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        for folder in [&self.models, &self.incoming] {
            remove(folder)?;
            std::fs::create_dir_all(folder).map_err(|cause| Error::Io {
                action: "make",
                path: folder.clone(),
                cause,
            })?;
        }
        Ok(())
    }

    /// Copies the part of the artifact that the server needs. Blocks. Leaves nothing behind when it fails.
    pub(crate) fn bring(&self, id: &ModelVersionId, uri: &str, version: Option<u32>) -> Result<(), Error> {
        let artifact = fetch::resolve(&fetch::locate(uri)?, &self.roots)?;
        let chosen = onnx::choose(&artifact, version)?;
        let name = id.internal_name();
        let (incoming, target) = (self.incoming.join(&name), self.models.join(&name));
        remove(&incoming)?;
        let copied = self.copy(&artifact, &chosen, &incoming).and_then(|()| {
            remove(&target)?;
            std::fs::rename(&incoming, &target).map_err(|cause| Error::Io { action: "make", path: target, cause })
        });
        if copied.is_err() {
            // The reason that counts is the first one.
            let _ = remove(&incoming);
        }
        copied
    }

    fn copy(&self, artifact: &Path, chosen: &Artifact, to: &Path) -> Result<(), Error> {
        match chosen {
            Artifact::Folder(folder) => {
                // A numbered folder may be a link, and a link may lead anywhere.
                let real = fetch::resolve(folder, &[artifact.to_owned()])?;
                fetch::copy_folder(artifact, &real, to, self.limits)?;
            }
            Artifact::File(file) => {
                std::fs::create_dir(to).map_err(|cause| Error::Io { action: "make", path: to.to_owned(), cause })?;
                fetch::copy_file(file, &to.join(onnx::MODEL_FILE), self.limits)?;
            }
        }
        Ok(())
    }

    /// Removes the copy, if there is one. Blocks.
    pub(crate) fn remove(&self, id: &ModelVersionId) -> Result<(), Error> {
        remove(&self.models.join(id.internal_name()))
    }
}

fn remove(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { action: "remove", path: folder.to_owned(), cause })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::reason::chain;

    const SMALL: Limits = Limits { bytes: 1000, entries: 8, depth: 2 };

    struct World {
        _folder: tempfile::TempDir,
        artifact: PathBuf,
        repository: Repository,
    }

    /// A repository and an artifact with these files; the content is the path.
    fn world(files: &[&str]) -> World {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let artifact = base.join("artifact");
        std::fs::create_dir(&artifact).unwrap();
        for file in files {
            let path = artifact.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let repository = Repository::new(&base.join("agent"), Vec::new(), SMALL);
        repository.clear().unwrap();
        World { _folder: folder, artifact, repository }
    }

    fn id() -> ModelVersionId {
        ModelVersionId::from_internal_name("iris_2").unwrap()
    }

    impl World {
        fn bring(&self, version: Option<u32>) -> Result<BTreeSet<String>, String> {
            self.bring_path(&self.artifact, version)
        }

        fn bring_path(&self, path: &Path, version: Option<u32>) -> Result<BTreeSet<String>, String> {
            let brought = self.repository.bring(&id(), path.to_str().unwrap(), version);
            let left: Vec<_> = std::fs::read_dir(&self.repository.incoming).unwrap().collect();
            assert!(left.is_empty(), "left behind: {left:?}");
            brought.map_err(|error| chain(&error))?;
            let mut found = BTreeSet::new();
            list(&self.repository.models.join("iris_2"), "", &mut found);
            Ok(found)
        }
    }

    fn list(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            assert!(!entry.file_type().unwrap().is_symlink(), "{name} is a link");
            if entry.path().is_dir() {
                list(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(format!("{name}={}", std::fs::read_to_string(entry.path()).unwrap()));
            }
        }
    }

    fn set(files: &[&str]) -> Result<BTreeSet<String>, String> {
        Ok(files.iter().map(|&file| file.to_owned()).collect())
    }

    #[test]
    fn version_folder_is_the_one_asked_for_else_the_highest_with_a_model_else_the_root() {
        let world = world(&["1/model.onnx", "2/model.onnx", "10/m.onnx", "11/readme.txt", "x/model.onnx"]);
        assert_eq!(world.bring(None), set(&["m.onnx=10/m.onnx"]));
        assert_eq!(world.bring(Some(2)), set(&["model.onnx=2/model.onnx"]));
        let missing = world.bring(Some(3)).unwrap_err();
        assert!(missing.contains("artifactVersion 3") && missing.contains("1, 2, 10, 11"), "{missing}");
        let empty = world.bring(Some(11)).unwrap_err();
        assert!(empty.contains("no .onnx file"), "{empty}");
    }

    #[test]
    fn root_is_taken_with_everything_in_it() {
        let world = world(&["model.onnx", "model.onnx.data", "labels/names.txt", "5/readme.txt"]);
        let all = ["model.onnx=model.onnx", "model.onnx.data=model.onnx.data", "labels/names.txt=labels/names.txt"];
        assert_eq!(world.bring(None), set(&[all[0], all[1], all[2], "5/readme.txt=5/readme.txt"]));
    }

    #[test]
    fn single_file_is_an_artifact() {
        let world = world(&["forest.onnx", "notes.txt"]);
        assert_eq!(world.bring_path(&world.artifact.join("forest.onnx"), None), set(&["model.onnx=forest.onnx"]));
        let versioned = world.bring_path(&world.artifact.join("forest.onnx"), Some(1)).unwrap_err();
        assert!(versioned.contains("artifactVersion 1"), "{versioned}");
        let other = world.bring_path(&world.artifact.join("notes.txt"), None).unwrap_err();
        assert!(other.contains("notes.txt") && other.contains(".onnx"), "{other}");
    }

    #[test]
    fn artifact_without_or_with_too_many_models_is_refused() {
        let none = world(&["readme.txt"]).bring(None).unwrap_err();
        assert!(none.contains("no .onnx file"), "{none}");
        let two = world(&["a.onnx", "b.onnx"]).bring(None).unwrap_err();
        assert!(two.contains("2 .onnx files") && two.contains("model.onnx"), "{two}");
        let world = world(&[]);
        let missing = world.bring_path(&world.artifact.join("nowhere"), None).unwrap_err();
        assert!(missing.contains("nowhere") && missing.contains("No such file"), "{missing}");
    }

    #[test]
    fn links_inside_the_artifact_become_copies_and_others_are_refused() {
        let inside = world(&["real/weights.bin", "model.onnx"]);
        symlink(inside.artifact.join("real/weights.bin"), inside.artifact.join("weights.bin")).unwrap();
        let weights = "weights.bin=real/weights.bin";
        assert_eq!(inside.bring(None), set(&["model.onnx=model.onnx", "real/weights.bin=real/weights.bin", weights]));
        let outside = world(&["model.onnx"]);
        symlink("/etc/passwd", outside.artifact.join("secrets")).unwrap();
        let refused = outside.bring(None).unwrap_err();
        assert!(refused.contains("secrets") && refused.contains("leaves the artifact"), "{refused}");
        let elsewhere = world(&["model.onnx"]);
        symlink("/etc", elsewhere.artifact.join("7")).unwrap();
        assert!(elsewhere.bring(Some(7)).is_err());
        let circle = world(&["model.onnx"]);
        symlink(&circle.artifact, circle.artifact.join("again")).unwrap();
        let refused = circle.bring(None).unwrap_err();
        assert!(refused.contains("folders"), "{refused}");
    }

    #[test]
    fn artifact_is_bounded_in_bytes_entries_and_depth_and_has_no_special_files() {
        let check = |world: &World, expected: &str| {
            let refused = world.bring(None).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        };
        let large = world(&["model.onnx"]);
        std::fs::write(large.artifact.join("weights"), vec![0; 1001]).unwrap();
        check(&large, "larger than 1000 bytes");
        let many: Vec<String> = (0..9).map(|index| format!("{index}.txt")).chain(["m.onnx".to_owned()]).collect();
        check(&world(&many.iter().map(String::as_str).collect::<Vec<_>>()), "more than 8 files");
        check(&world(&["model.onnx", "a/b/c/d"]), "2 folders deep");
        let special = world(&["model.onnx"]);
        let _socket = std::os::unix::net::UnixListener::bind(special.artifact.join("socket")).unwrap();
        check(&special, "neither a file nor a folder");
    }

    #[test]
    fn failed_write_names_path_and_reason_and_leaves_nothing() {
        let world = world(&["model.onnx"]);
        // A file where the copies belong fails for every user, unlike permissions, which the superuser ignores.
        std::fs::remove_dir(&world.repository.incoming).unwrap();
        std::fs::write(&world.repository.incoming, "").unwrap();
        let error = world.repository.bring(&id(), world.artifact.to_str().unwrap(), None).unwrap_err();
        let text = chain(&error);
        assert!(text.contains("incoming/iris_2") && text.contains("Not a directory"), "{text}");
    }

    #[test]
    fn artifacts_come_from_the_allowed_folders_alone() {
        let mut world = world(&["model.onnx"]);
        world.repository.roots = vec![world.artifact.clone()];
        assert!(world.bring(None).is_ok());
        world.repository.roots = vec![world.artifact.join("elsewhere")];
        let refused = world.bring(None).unwrap_err();
        assert!(refused.contains("outside the folders"), "{refused}");
    }

    #[test]
    fn copies_of_an_earlier_process_are_removed_at_start() {
        let world = world(&["model.onnx"]);
        world.bring(None).unwrap();
        world.repository.clear().unwrap();
        assert_eq!(std::fs::read_dir(&world.repository.models).unwrap().count(), 0);
    }
}
