//! Brings up the volumes: finds each by its GPT label, formats an empty one, checks the others, mounts, lays out folders.
//!
//! Both volumes are worked on at the same time, because formatting is what a first boot waits for longest. A partition
//! with unknown contents is never formatted: that is somebody's data until a person says otherwise.

use super::{BlockError, BlockHost, Contents, EPHEMERAL, STATE, Volume};
use machined_reconcile::Outcome;
use machined_runtime::{Controller, Ports, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How soon to look again for a disk that the kernel has not shown yet; the kernel finds disks within a second or two.
const DISK_POLL: Duration = Duration::from_millis(200);

/// A volume that every machine has.
struct VolumeSpec {
    label: &'static str,
    target: &'static str,
    /// Folders below the mount point with their permission bits, parents first.
    folders: &'static [(&'static str, u32)],
}

const VOLUMES: [VolumeSpec; 2] = [
    VolumeSpec {
        label: "CAIRN-STATE",
        target: STATE,
        folders: &[("machined", 0o700), ("controlplane", 0o700), ("gitsync", 0o711)],
    },
    VolumeSpec {
        label: "CAIRN-EPHEMERAL",
        target: EPHEMERAL,
        folders: &[
            ("lib", 0o755),
            ("lib/containerd", 0o711),
            ("lib/cairn", 0o755),
            ("log", 0o755),
            ("log/services", 0o750),
            ("log/pods", 0o755),
            ("log/containers", 0o755),
            ("tmp", 0o1777),
        ],
    },
];

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The host refused something.
    #[error("the volume {label} could not be brought up")]
    Host {
        /// GPT label.
        label: &'static str,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// The partition holds something that is not ours.
    #[error(
        "the partition {label} ({device}) holds data that is not ext4; it is left alone. Wipe its first megabyte to have it formatted"
    )]
    Unknown {
        /// GPT label.
        label: &'static str,
        /// Device file.
        device: PathBuf,
    },
}

/// Writes [`Volume`].
pub struct VolumeController<H> {
    host: Arc<H>,
    volumes: Writer<Volume>,
}

impl<H: BlockHost> VolumeController<H> {
    /// Declares its output at `ports`.
    pub fn new(ports: &mut Ports, host: Arc<H>) -> Self {
        VolumeController { host, volumes: ports.output() }
    }

    /// Brings one volume up; `false` when the kernel does not show its partition yet.
    async fn bring_up(&self, spec: &VolumeSpec) -> Result<bool, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let target = Path::new(spec.target);
        if self.volumes.current().contains_key(spec.target) {
            return Ok(true);
        }
        let volume = if self.host.is_mounted(target).await.map_err(refused)? {
            Volume { device: PathBuf::new(), formatted: false }
        } else {
            let Some(device) = self.host.partition(label).await.map_err(refused)? else { return Ok(false) };
            self.mount(spec, device).await?
        };
        for (folder, mode) in spec.folders {
            self.host.make_folder(&target.join(folder), *mode).await.map_err(refused)?;
        }
        tracing::info!(label, device = %volume.device.display(), formatted = volume.formatted, "volume is mounted");
        self.volumes.put(spec.target, volume);
        Ok(true)
    }

    async fn mount(&self, spec: &VolumeSpec, device: PathBuf) -> Result<Volume, VolumeError> {
        let label = spec.label;
        let refused = |source| VolumeError::Host { label, source };
        let formatted = match self.host.contents(&device).await.map_err(refused)? {
            Contents::Empty => {
                self.host.format(&device, label).await.map_err(refused)?;
                true
            }
            Contents::Ext4 => {
                self.host.check(&device).await.map_err(refused)?;
                false
            }
            Contents::Unknown => return Err(VolumeError::Unknown { label, device }),
        };
        self.host.mount(&device, Path::new(spec.target)).await.map_err(refused)?;
        Ok(Volume { device, formatted })
    }
}

impl<H: BlockHost> Controller for VolumeController<H> {
    type Error = VolumeError;

    async fn reconcile(&mut self) -> Result<Outcome, VolumeError> {
        let [state, ephemeral] = &VOLUMES;
        let (state, ephemeral) = tokio::join!(self.bring_up(state), self.bring_up(ephemeral));
        if state? && ephemeral? { Ok(Outcome::Done) } else { Ok(Outcome::Again(DISK_POLL)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machined_reconcile::Supervisor;
    use machined_runtime::{Store, start};
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Partitions by label with what lies on them, and what was done.
    #[derive(Default)]
    struct FakeDisks {
        partitions: Mutex<BTreeMap<&'static str, Contents>>,
        late: Mutex<u32>,
        done: Mutex<Vec<String>>,
    }

    impl FakeDisks {
        fn with(partitions: &[(&'static str, Contents)]) -> Arc<Self> {
            Arc::new(FakeDisks { partitions: Mutex::new(partitions.iter().copied().collect()), ..Self::default() })
        }
        fn note(&self, what: String) -> Result<(), BlockError> {
            self.done.lock().expect("because no test panics with it").push(what);
            Ok(())
        }
    }

    impl BlockHost for FakeDisks {
        async fn partition(&self, label: &str) -> Result<Option<PathBuf>, BlockError> {
            let mut late = self.late.lock().expect("because no test panics with it");
            if *late > 0 {
                *late -= 1;
                return Ok(None);
            }
            let partitions = self.partitions.lock().expect("because no test panics with it");
            Ok(partitions.contains_key(label).then(|| PathBuf::from(label)))
        }
        async fn contents(&self, device: &Path) -> Result<Contents, BlockError> {
            let label = device.to_str().expect("because labels are ASCII");
            Ok(self.partitions.lock().expect("because no test panics with it")[label])
        }
        async fn format(&self, device: &Path, label: &str) -> Result<(), BlockError> {
            assert_eq!(device, Path::new(label));
            self.note(format!("format {label}"))
        }
        async fn check(&self, device: &Path) -> Result<(), BlockError> {
            self.note(format!("check {}", device.display()))
        }
        async fn is_mounted(&self, _target: &Path) -> Result<bool, BlockError> {
            Ok(false)
        }
        async fn mount(&self, device: &Path, target: &Path) -> Result<(), BlockError> {
            self.note(format!("mount {} {}", device.display(), target.display()))
        }
        async fn make_folder(&self, _path: &Path, _mode: u32) -> Result<(), BlockError> {
            Ok(())
        }
    }

    fn controller(host: &Arc<FakeDisks>) -> (Store, Ports, VolumeController<FakeDisks>) {
        let store = Store::new();
        let mut ports = Ports::new(&store, "block");
        let controller = VolumeController::new(&mut ports, Arc::clone(host));
        (store, ports, controller)
    }

    #[tokio::test(start_paused = true)]
    async fn empty_partitions_are_formatted_and_old_ones_checked() {
        let host = FakeDisks::with(&[("CAIRN-STATE", Contents::Ext4), ("CAIRN-EPHEMERAL", Contents::Empty)]);
        *host.late.lock().expect("because no test panics with it") = 3;
        let (store, ports, controller) = controller(&host);
        let supervisor = Supervisor::new();
        start(&supervisor, &ports, controller);
        let volumes = store.reader::<Volume>().wait_for(|set| set.len() == 2).await;
        supervisor.stop(Duration::from_secs(1)).await;
        assert!(volumes["/var"].formatted && !volumes["/state"].formatted);
        let mut done = host.done.lock().expect("because no test panics with it").clone();
        done.sort();
        let expected =
            ["check CAIRN-STATE", "format CAIRN-EPHEMERAL", "mount CAIRN-EPHEMERAL /var", "mount CAIRN-STATE /state"];
        assert_eq!(done, expected);
    }

    #[tokio::test]
    async fn unknown_data_is_left_alone() {
        let host = FakeDisks::with(&[("CAIRN-STATE", Contents::Unknown), ("CAIRN-EPHEMERAL", Contents::Ext4)]);
        let (store, _ports, mut controller) = controller(&host);
        let refused = controller.reconcile().await;
        assert!(matches!(refused, Err(VolumeError::Unknown { label: "CAIRN-STATE", .. })));
        assert!(store.reader::<Volume>().get("/var").is_some(), "the other volume does not wait for a person");
        assert!(!host.done.lock().expect("because no test panics with it").iter().any(|d| d.contains("CAIRN-STATE")));
    }
}
