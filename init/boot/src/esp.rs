//! What the EFI system partition of every Cairn disk has in common: made by the image builder, and by the installer on the machine.

/// systemd-boot under the name that firmware starts from any disk.
pub const BOOT_LOADER: &str = "/EFI/BOOT/BOOTX64.EFI";
/// Where systemd-boot looks for keys to enrol by itself.
pub const ENROLMENT_KEYS: &str = "/loader/keys/auto";
/// Number of the volume, fixed ("CARN").
pub const VOLUME_ID: u32 = 0x4341_524e;
/// Label of the volume, padded as FAT wants it.
pub const VOLUME_LABEL: [u8; 11] = *b"CAIRN ESP  ";

/// Largest cluster, in bytes: firmware follows a file cluster by cluster.
const CLUSTER_BYTES_MAX: u32 = 4096;
/// FAT32 begins at 65525 clusters; some more, because the tables take room too.
const CLUSTERS_MIN: u64 = 66_000;

/// The largest cluster with which a partition of `size` bytes is FAT32, in bytes.
pub fn cluster_bytes(size: u64) -> u32 {
    let mut bytes = CLUSTER_BYTES_MAX;
    while bytes > 512 && size / u64::from(bytes) < CLUSTERS_MIN {
        bytes /= 2;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_as_large_as_fat32_allows() {
        assert_eq!(cluster_bytes(48 << 20), 512);
        assert_eq!(cluster_bytes(128 << 20), 1024);
        assert_eq!(cluster_bytes(260 << 20), 4096);
    }
}
