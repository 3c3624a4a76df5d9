//! The scheduler's memory on disk: LMDB through heed, one writer, one transaction for each batch of events.
//!
//! Values are messages of `switchyard.store.v1` and nothing else. A folder belongs to one process; one that a newer
//! version has written is refused and left as it is.
//!
//! Invariant: when [`Store::commit`] has returned, the records are on disk (no NOSYNC flag anywhere).

mod pages;
mod pipeline;
mod record;
mod seal;
mod transfer;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use heed::types::{Bytes, Str};
use heed::{Database, Env, EnvOpenOptions};
use prost::Message;
use scheduler_core::{Kept, Record};

pub use pages::BadFile;
pub use record::BadRecord;
pub use transfer::{Contents, TransferError, check, export, import};

/// Number of the record format. A change of meaning needs a new number, an upgrade function and a golden old record.
/// 1: models and servers, without checksums. 2: experiments, and a checksum before each record. 3: pipelines and workers.
pub const SCHEMA: u32 = 3;

/// The schema of stores whose records have no checksums.
const UNSEALED: u32 = 1;

/// Free space on the disk or in the map below which new declarations are refused: room for the machine to go on with
/// what it has accepted. Losing a replica with 10,000 models writes each of their pages anew in one transaction, 40 MB
/// when no two of them share a page.
pub const RESERVE_BYTES: u64 = 64 << 20;

/// In a small map (tests, tiny volumes) the reserve is this share of it.
const RESERVE_SHARE: u64 = 4;

/// A transaction takes at most this share of the reserve, beside the writes of its last event.
const COMMIT_SHARE: u64 = 8;

const SCHEMA_KEY: &str = "schema";
const LOCK_FILE: &str = "LOCK";
const FOLDER: &str = "store";
const DATA_FILE: &str = "data.mdb";

/// The open store.
pub struct Store {
    env: Env,
    models: Database<Str, Bytes>,
    servers: Database<Str, Bytes>,
    experiments: Database<Str, Bytes>,
    pipelines: Database<Str, Bytes>,
    workforce: Database<Str, Bytes>,
    folder: PathBuf,
    map_bytes: u64,
    /// Held for as long as the store is open.
    _lock: File,
}

/// Records on their way to the disk, encoded. Of several for one key the last counts.
#[derive(Debug, Default)]
pub struct Pending {
    records: BTreeMap<(Table, String), Option<Vec<u8>>>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Models,
    Servers,
    Experiments,
    Pipelines,
    Workforce,
}

impl Table {
    const ALL: [(&'static str, Table); 5] = [
        ("model", Table::Models),
        ("server", Table::Servers),
        ("experiment", Table::Experiments),
        ("pipeline", Table::Pipelines),
        ("workforce", Table::Workforce),
    ];

    const fn name(self) -> &'static str {
        match self {
            Table::Models => "models",
            Table::Servers => "servers",
            Table::Experiments => "experiments",
            Table::Pipelines => "pipelines",
            Table::Workforce => "workforce",
        }
    }
}

/// Maps the folder's file. The caller holds its lock.
fn open_env(folder: &Path, map_bytes: usize) -> Result<Env, heed::Error> {
    let mut options = EnvOpenOptions::new();
    options.map_size(map_bytes).max_dbs(8);
    // SAFETY: LMDB maps the file into memory, so nobody else may change it meanwhile. The lock file taken before
    // keeps every other process of ours out, and this process opens the folder once.
    #[expect(unsafe_code, reason = "LMDB cannot be opened without it; see the SAFETY note")]
    unsafe {
        options.open(folder)
    }
}

/// Puts a checksum before each record of a table.
fn upgrade(table: Database<Str, Bytes>, writer: &mut heed::RwTxn<'_>) -> Result<(), heed::Error> {
    let mut sealed = Vec::new();
    for entry in table.iter(writer)? {
        let (key, record) = entry?;
        sealed.push((key.to_owned(), seal::seal(key, record)));
    }
    for (key, record) in sealed {
        table.put(writer, &key, &record)?;
    }
    Ok(())
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or read.
    #[error("open data folder {path}")]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        #[source]
        cause: io::Error,
    },
    /// Another process has it.
    #[error("data folder {path} is in use by another process; stop that one, or give this one a folder of its own")]
    InUse {
        /// Which one.
        path: PathBuf,
    },
    /// LMDB refuses.
    #[error("open store in {path}")]
    Database {
        /// Where.
        path: PathBuf,
        /// What it says.
        #[source]
        cause: heed::Error,
    },
    /// A newer version wrote it.
    #[error(
        "store in {path} has schema {found}, this version knows schemas up to {SCHEMA}; nothing was changed, use the newer version"
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its schema.
        found: u32,
    },
    /// Its file is not what was written.
    #[error(
        "{path}: nothing was changed; restore an export with `switchyard store import`, or move the folder away to begin anew"
    )]
    BadFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: BadFile,
    },
    /// Something that every store has is missing.
    #[error("store in {path} has no {what} any more; nothing was changed, restore an export")]
    Incomplete {
        /// Where.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// A record is not the one that was written.
    #[error("record {key:?} of {table} does not match its checksum; nothing was changed, restore an export")]
    Unsealed {
        /// Which table.
        table: &'static str,
        /// Which record.
        key: String,
    },
    /// A record cannot be read.
    #[error("read record {key:?} of {table}; nothing was changed")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// Which record.
        key: String,
        /// What is wrong with it.
        #[source]
        cause: BadRecord,
    },
}

/// A transaction that did not become durable. Memory is ahead of the disk now: the process must end.
#[derive(Debug, thiserror::Error)]
#[error("commit to the store in {path}")]
pub struct CommitError {
    path: PathBuf,
    #[source]
    cause: heed::Error,
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there. `map_bytes` bounds its size.
    pub fn open(dir: &Path, map_bytes: u64) -> Result<Self, OpenError> {
        let folder = dir.join(FOLDER);
        let in_folder = |cause| OpenError::Folder { path: dir.to_owned(), cause };
        std::fs::create_dir_all(&folder).map_err(in_folder)?;
        let lock = File::create(dir.join(LOCK_FILE)).map_err(in_folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: dir.to_owned() }),
            Err(TryLockError::Error(cause)) => return Err(in_folder(cause)),
        }
        let is_new = match File::open(folder.join(DATA_FILE)) {
            // LMDB trusts its file; what it is given must deserve it.
            Ok(file) => {
                let path = folder.join(DATA_FILE);
                pages::verify(&file).map_err(|cause| OpenError::BadFile { path, cause })?.tables == 0
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => true,
            Err(cause) => return Err(OpenError::Folder { path: folder.join(DATA_FILE), cause }),
        };
        Self::open_locked(&folder, map_bytes, is_new, lock)
            .map_err(|error| error.unwrap_or_else(|cause| OpenError::Database { path: folder, cause }))
    }

    fn open_locked(
        folder: &Path,
        map_bytes: u64,
        is_new: bool,
        lock: File,
    ) -> Result<Self, Result<OpenError, heed::Error>> {
        let page = rustix_page_size();
        let size = usize::try_from(map_bytes.next_multiple_of(page)).unwrap_or(usize::MAX / 2);
        let env = open_env(folder, size).map_err(Err)?;
        let mut writer = env.write_txn().map_err(Err)?;
        // What a store once had it must have: a table that is missing was lost.
        let mut table = |name: &'static str, may_be_made: bool| match env.open_database(&writer, Some(name)) {
            Ok(Some(table)) => Ok(table),
            Ok(None) if may_be_made => env.create_database(&mut writer, Some(name)).map_err(Err),
            Ok(None) => Err(Ok(OpenError::Incomplete { path: folder.to_owned(), what: name })),
            Err(error) => Err(Err(error)),
        };
        let meta: Database<Str, Bytes> = table("meta", is_new)?;
        let models: Database<Str, Bytes> = table("models", is_new)?;
        let servers = table("servers", is_new)?;
        let found = match meta.get(&writer, SCHEMA_KEY).map_err(Err)? {
            None if is_new => SCHEMA,
            None => return Err(Ok(OpenError::Incomplete { path: folder.to_owned(), what: "schema" })),
            Some(bytes) => bytes.try_into().map(u32::from_le_bytes).unwrap_or(u32::MAX),
        };
        if found == 0 {
            return Err(Ok(OpenError::Incomplete { path: folder.to_owned(), what: "schema" }));
        }
        if found > SCHEMA {
            return Err(Ok(OpenError::Newer { path: folder.to_owned(), found }));
        }
        // Tables that came with a later schema are made for the older ones.
        let mut later = |name: &'static str, since: u32| match env.open_database(&writer, Some(name)) {
            Ok(Some(table)) => Ok(table),
            Ok(None) if is_new || found < since => env.create_database(&mut writer, Some(name)).map_err(Err),
            Ok(None) => Err(Ok(OpenError::Incomplete { path: folder.to_owned(), what: name })),
            Err(error) => Err(Err(error)),
        };
        let experiments = later("experiments", 2)?;
        let pipelines = later("pipelines", 3)?;
        let workforce = later("workforce", 3)?;
        let is_old = found < SCHEMA;
        if found <= UNSEALED {
            // All or nothing: it is one transaction, and before its commit the store has the old schema.
            for table in [models, servers] {
                upgrade(table, &mut writer).map_err(Err)?;
            }
        }
        if is_old {
            tracing::info!(folder = %folder.display(), from = found, to = SCHEMA, "store upgraded");
        }
        if is_new || is_old {
            meta.put(&mut writer, SCHEMA_KEY, &SCHEMA.to_le_bytes()).map_err(Err)?;
        }
        // Without a change this keeps the handles of the tables and writes nothing.
        writer.commit().map_err(Err)?;
        let (folder, map_bytes) = (folder.to_owned(), size as u64);
        Ok(Self { env, models, servers, experiments, pipelines, workforce, folder, map_bytes, _lock: lock })
    }

    /// Everything that was committed.
    pub fn load(&self) -> Result<Kept, OpenError> {
        Ok(Kept {
            models: self.read(Table::Models, record::decode_model)?,
            servers: self.read(Table::Servers, record::decode_server)?,
            experiments: self.read(Table::Experiments, record::decode_experiment)?,
            pipelines: self.read(Table::Pipelines, pipeline::decode)?,
            workforce: self.read(Table::Workforce, pipeline::decode_workforce)?,
        })
    }

    fn read<T>(&self, table: Table, decode: impl Fn(&[u8]) -> Result<T, BadRecord>) -> Result<Vec<T>, OpenError> {
        let records = self
            .records(table)?
            .into_iter()
            .map(|(key, bytes)| decode(&bytes).map_err(|cause| OpenError::Damaged { table: table.name(), key, cause }));
        records.collect()
    }

    /// Every record of a table, as it was written.
    fn records(&self, table: Table) -> Result<Vec<(String, Vec<u8>)>, OpenError> {
        let in_database = |cause| OpenError::Database { path: self.folder.clone(), cause };
        let reader = self.env.read_txn().map_err(in_database)?;
        let mut records = Vec::new();
        for entry in self.database(table).iter(&reader).map_err(in_database)? {
            let (key, sealed) = entry.map_err(in_database)?;
            let unsealed = || OpenError::Unsealed { table: table.name(), key: key.to_owned() };
            records.push((key.to_owned(), seal::open(key, sealed).ok_or_else(unsealed)?.to_vec()));
        }
        Ok(records)
    }

    fn database(&self, table: Table) -> Database<Str, Bytes> {
        match table {
            Table::Models => self.models,
            Table::Servers => self.servers,
            Table::Experiments => self.experiments,
            Table::Pipelines => self.pipelines,
            Table::Workforce => self.workforce,
        }
    }

    fn bad_file(&self, cause: BadFile) -> OpenError {
        OpenError::BadFile { path: self.folder.join(DATA_FILE), cause }
    }

    /// Writes records into an empty store, all of them or none.
    fn fill(&self, records: &[(Table, String, Vec<u8>)]) -> Result<(), heed::Error> {
        let mut writer = self.env.write_txn()?;
        for (table, key, bytes) in records {
            self.database(*table).put(&mut writer, key, &seal::seal(key, bytes))?;
        }
        writer.commit()
    }

    /// Makes the records durable, all of them or none, and forgets them.
    pub fn commit(&self, pending: &mut Pending) -> Result<(), CommitError> {
        let pending = std::mem::take(pending);
        if pending.records.is_empty() {
            return Ok(());
        }
        self.write(pending).map_err(|cause| CommitError { path: self.folder.clone(), cause })
    }

    fn write(&self, pending: Pending) -> Result<(), heed::Error> {
        let mut writer = self.env.write_txn()?;
        for ((table, key), bytes) in pending.records {
            let table = self.database(table);
            match bytes {
                Some(bytes) => table.put(&mut writer, &key, &seal::seal(&key, &bytes))?,
                None => {
                    table.delete(&mut writer, &key)?;
                }
            }
        }
        writer.commit()
    }

    /// Space that is kept for what was accepted.
    fn reserve_bytes(&self) -> u64 {
        RESERVE_BYTES.min(self.map_bytes / RESERVE_SHARE)
    }

    /// How many bytes one transaction may have before the next is begun. Pages are free again two transactions later,
    /// so the reserve is enough for any number of them.
    #[must_use]
    pub fn commit_bytes(&self) -> usize {
        usize::try_from(self.reserve_bytes() / COMMIT_SHARE).unwrap_or(usize::MAX)
    }

    /// How many bytes new declarations may take before only the reserve is left in the map or on the disk; negative when
    /// the reserve is in use. A disk that cannot be asked counts as having room; the commit will tell.
    #[must_use]
    pub fn spare_bytes(&self) -> i64 {
        let used = self.env.non_free_pages_size().unwrap_or(0);
        let in_map = self.map_bytes.saturating_sub(used);
        let on_disk = rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        signed(in_map.min(on_disk)) - signed(self.reserve_bytes())
    }
}

impl Pending {
    /// Adds a record.
    pub fn add(&mut self, record: &Record) {
        let (table, key, bytes) = match record {
            Record::Model(model) => {
                (Table::Models, model.name.as_str(), Some(record::encode_model(model).encode_to_vec()))
            }
            Record::NoModel(name) => (Table::Models, name.as_str(), None),
            Record::Server(server) => {
                (Table::Servers, server.name.as_str(), Some(record::encode_server(server).encode_to_vec()))
            }
            Record::Experiment(experiment) => (
                Table::Experiments,
                experiment.definition.name.as_str(),
                Some(record::encode_experiment(experiment).encode_to_vec()),
            ),
            Record::NoExperiment(name) => (Table::Experiments, name.as_str(), None),
            Record::Pipeline(kept) => {
                (Table::Pipelines, kept.name.as_str(), Some(pipeline::encode(kept).encode_to_vec()))
            }
            Record::NoPipeline(name) => (Table::Pipelines, name.as_str(), None),
            Record::Workforce(kept) => {
                (Table::Workforce, pipeline::key(kept.role), Some(pipeline::encode_workforce(kept).encode_to_vec()))
            }
        };
        let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        self.bytes += size(&bytes);
        if let Some(replaced) = self.records.insert((table, key.to_owned()), bytes) {
            self.bytes -= size(&replaced);
        }
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Size of what there is to write.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<'a> FromIterator<&'a Record> for Pending {
    fn from_iter<I: IntoIterator<Item = &'a Record>>(records: I) -> Self {
        let mut pending = Pending::default();
        records.into_iter().for_each(|record| pending.add(record));
        pending
    }
}

fn rustix_page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use domain::{
        Bytes, Clock, Lifecycle, ModelName, ReplicaConfig, ReplicaIndex, ServerBounds, ServerName, Subject, Time,
        VersionNumber,
    };
    use scheduler_core::{Assignment, Experiment, Few, Kept, Link, Model, Record, Replica, Server, Version};

    use prost::Message;

    use super::{OpenError, SCHEMA, SCHEMA_KEY, Store};

    const MAP: u64 = 1 << 20;

    pub(super) fn model(name: &str) -> Model {
        let wire = messages::scheduler::Model {
            meta: Some(messages::scheduler::MetaData { name: name.into(), ..Default::default() }),
            model_spec: Some(messages::scheduler::ModelSpec { uri: "/models/x".into(), ..Default::default() }),
            ..Default::default()
        };
        let mut version = Version::new(api::convert::model::definition(wire).expect("valid"), Time(5));
        version.server = ServerName::parse("onnx").ok();
        version.was_available = true;
        version.shortfall = "1 of 2 replicas".into();
        version.short_of_memory = true;
        version.runtime = Some(domain::RuntimeInfo::MlServer { workers: 2 });
        let assignment = Assignment {
            lifecycle: Lifecycle::UnloadEnvoyRequested,
            clock: Clock(9),
            reserves: true,
            reason: "because".into(),
            changed_at: Time(7),
        };
        version.assignments.insert(ReplicaIndex(3), assignment);
        Model {
            name: ModelName::parse(name).expect("a name"),
            deleted: true,
            terminated_at: Some(Time(11)),
            clock: Clock(10),
            versions: Few::from([(VersionNumber(4), version)]),
        }
    }

    pub(super) fn experiment() -> Experiment {
        let wire = messages::scheduler::Experiment {
            name: "split".into(),
            default: Some("a".into()),
            candidates: vec![messages::scheduler::ExperimentCandidate { name: "a".into(), weight: 1 }],
            mirror: Some(messages::scheduler::ExperimentMirror { name: "b".into(), percent: 20 }),
            ..Default::default()
        };
        Experiment {
            definition: api::convert::experiment::definition(wire).expect("valid"),
            stopped_at: Some(Time(3)),
            lingering: BTreeSet::from([Subject::Model(ModelName::parse("c").expect("a name"))]),
            former_defaults: BTreeSet::from([Subject::Model(ModelName::parse("d").expect("a name"))]),
        }
    }

    pub(super) fn server() -> Server {
        let config = ReplicaConfig {
            host: "10.0.0.1".into(),
            http_port: 9000,
            grpc_port: 9500,
            memory: Bytes(100),
            capabilities: BTreeSet::from(["onnx".to_owned()]),
            over_commit_percentage: 10,
        };
        let replica = Replica { config, available: Bytes(50), draining: true, catching_up: false, link: Link::Unseen };
        Server {
            name: ServerName::parse("onnx").expect("a name"),
            shared: true,
            bounds: Some(ServerBounds { expected: 2, min: 1, max: 3, kubernetes: None }),
            replicas: BTreeMap::from([(ReplicaIndex(1), replica)]),
        }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening_and_the_last_of_several_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut older = model("iris");
        older.clock = Clock(1);
        let records = [
            Record::Model(Box::new(older)),
            Record::Model(Box::new(model("gone"))),
            Record::Server(Box::new(server())),
            Record::Model(Box::new(model("iris"))),
            Record::NoModel(ModelName::parse("gone").expect("a name")),
            Record::Experiment(Box::new(experiment())),
            Record::Pipeline(Box::new(super::pipeline::tests::pipeline())),
            Record::Workforce(Box::new(super::pipeline::tests::workforce())),
        ];
        let store = Store::open(dir.path(), MAP).expect("opened");
        store.commit(&mut records.iter().collect()).expect("committed");
        drop(store);
        let store = Store::open(dir.path(), MAP).expect("opened again");
        let kept = Kept {
            models: vec![model("iris")],
            servers: vec![server()],
            experiments: vec![experiment()],
            pipelines: vec![super::pipeline::tests::pipeline()],
            workforce: vec![super::pipeline::tests::workforce()],
        };
        assert_eq!(store.load().expect("readable"), kept);
    }

    /// A record that was written once must be readable for ever. `UPDATE=1` writes the golden bytes anew, which is
    /// allowed only together with a new schema number.
    #[test]
    fn records_keep_their_bytes() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let model = hex(super::record::encode_model(&model("iris")).encode_to_vec());
        let server = hex(super::record::encode_server(&server()).encode_to_vec());
        let experiment = hex(super::record::encode_experiment(&experiment()).encode_to_vec());
        let pipeline = hex(super::pipeline::encode(&super::pipeline::tests::pipeline()).encode_to_vec());
        let workforce = hex(super::pipeline::encode_workforce(&super::pipeline::tests::workforce()).encode_to_vec());
        let written = format!(
            "schema {SCHEMA}\nmodel {model}\nserver {server}\nexperiment {experiment}\npipeline {pipeline}\nworkforce {workforce}\n"
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/store_records.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &written).expect("write the golden bytes");
        }
        assert_eq!(written, std::fs::read_to_string(path).expect("the golden bytes"));
    }

    #[test]
    fn a_folder_in_use_is_refused_and_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let _store = Store::open(dir.path(), MAP).expect("opened");
        let error = Store::open(dir.path(), MAP).err().expect("refused");
        assert!(matches!(&error, OpenError::InUse { path } if path == dir.path()), "{error}");
    }

    #[test]
    fn a_folder_of_a_newer_version_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), MAP).expect("opened");
        store.commit(&mut [Record::Server(Box::new(server()))].iter().collect()).expect("committed");
        let set_schema = |store: &Store, schema: u32| {
            let mut writer = store.env.write_txn().expect("a writer");
            let meta: heed::Database<heed::types::Str, heed::types::Bytes> =
                store.env.open_database(&writer, Some("meta")).expect("readable").expect("there");
            meta.put(&mut writer, SCHEMA_KEY, &schema.to_le_bytes()).expect("written");
            writer.commit().expect("committed");
        };
        set_schema(&store, SCHEMA + 1);
        drop(store);
        let error = Store::open(dir.path(), MAP).err().expect("refused");
        assert!(matches!(error, OpenError::Newer { found, .. } if found == SCHEMA + 1), "{error}");
    }

    #[test]
    fn a_damaged_record_is_named_and_nothing_is_changed() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), MAP).expect("opened");
        let mut writer = store.env.write_txn().expect("a writer");
        store.models.put(&mut writer, "iris", &super::seal::seal("iris", b"no message")).expect("written");
        store.models.put(&mut writer, "rose", b"without a checksum").expect("written");
        writer.commit().expect("committed");
        let error = store.load().expect_err("damaged");
        assert!(matches!(&error, OpenError::Unsealed { table: "models", key } if key == "rose"), "{error}");
        let mut writer = store.env.write_txn().expect("a writer");
        store.models.delete(&mut writer, "rose").expect("deleted");
        writer.commit().expect("committed");
        let error = store.load().expect_err("damaged");
        assert!(matches!(&error, OpenError::Damaged { table: "models", key, .. } if key == "iris"), "{error}");
    }

    #[test]
    fn a_map_that_fills_up_says_how_much_is_left_before_it_is_full() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), MAP).expect("opened");
        assert!(store.spare_bytes() > 0);
        let mut written = 0;
        while store.spare_bytes() > 0 {
            let record = Record::Model(Box::new(model(&format!("model-{written}"))));
            store.commit(&mut [record].iter().collect()).expect("there was room");
            written += 1;
        }
        let record = Record::Model(Box::new(model("one-more")));
        store.commit(&mut [record].iter().collect()).expect("the reserve is there for what runs");
        assert_eq!(store.load().expect("readable").models.len(), written + 1);
    }
}
