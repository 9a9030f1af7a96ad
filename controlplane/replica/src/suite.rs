//! openraft's own storage suite on our log and state file.

use crate::Folder;
use crate::disk::StateDisk;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::types::Types;
use controlplane_store::Hub;
use machined_ids::Revision;
use openraft::StorageError;
use openraft::impls::TokioRuntime;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

struct Builder;

impl StoreBuilder<Types, LogStore<TokioRuntime>, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore<TokioRuntime>, Machine), StorageError<Types>> {
        let dir = TempDir::new().expect("because a temporary directory can be made");
        let folder = Folder::create(dir.path()).expect("because a directory can be made");
        let log = LogStore::open(&folder).expect("because the file is new");
        let disk = StateDisk::open(&folder).expect("because the file is new");
        let machine = Machine::new(Arc::new(disk), Hub::new(Revision(1)), crate::LEASES);
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn our_files_pass_the_storage_suite_of_openraft() {
    Suite::test_all(Builder).await.expect("because the suite passes");
}
