//! The EFI system partition: FAT32 with systemd-boot, its configuration and the UKI of slot A.
//!
//! Called by the disk stage. Times are FAT's first, the volume's number is fixed: the same files give the same bytes. Must never
//! hold a secret: nothing protects it.

use std::io::{self, Cursor, Write as _};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use init_boot::esp::{BOOT_LOADER, ENROLMENT_KEYS, VOLUME_ID, VOLUME_LABEL, cluster_bytes};
use init_boot::{LOADER_CONFIGURATION, MEDIUM_DESCRIPTION, Slot, UKI_FOLDER};

use crate::secure_boot::EnrolmentFile;

/// Why there is no ESP.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path} to an EFI system partition of {size} bytes; enlarge it in the profile")]
pub struct EspError {
    path: String,
    size: u64,
    #[source]
    source: io::Error,
}

/// When systemd-boot enrols the keys on the ESP (loader.conf's `secure-boot-enroll`), on a machine in setup mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolment {
    /// By itself in virtual machines; on others the boot menu offers it. Keys that lack the vendor's can make a real machine's
    /// graphics or network cards unusable.
    Safe,
    /// By itself on every machine.
    Force,
}

/// What the ESP carries.
pub struct Boot<'a> {
    /// systemd-boot.
    pub loader: &'a [u8],
    /// The UKI of slot A.
    pub uki: &'a [u8],
    /// Keys to enrol, and when.
    pub keys: Option<(&'a [EnrolmentFile], Enrolment)>,
    /// What an installer's medium says of itself; none on a disk.
    pub medium: Option<&'a str>,
}

/// The boot loader's configuration; machined writes it anew with each upgrade, when keys have long been enrolled.
fn loader_configuration(enrolment: Option<Enrolment>) -> String {
    let enrol = match enrolment {
        None => "",
        Some(Enrolment::Safe) => "secure-boot-enroll if-safe\n",
        Some(Enrolment::Force) => "secure-boot-enroll force\n",
    };
    Slot::A.loader_configuration() + enrol
}

/// Builds the partition's content.
///
/// # Errors
/// When the files do not fit.
pub fn build(size: u64, boot: &Boot<'_>) -> Result<Vec<u8>, EspError> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |source| EspError { path, size, source }
    };
    let length = usize::try_from(size).expect("because partitions are addressable in memory on 64-bit hosts");
    let mut bytes = vec![0; length];
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(cluster_bytes(size))
        .volume_id(VOLUME_ID)
        .volume_label(VOLUME_LABEL);
    fatfs::format_volume(Cursor::new(&mut bytes[..]), options).map_err(failed("a file system"))?;
    let configuration = loader_configuration(boot.keys.map(|(_, enrolment)| enrolment));
    let mut files = vec![
        (BOOT_LOADER.to_owned(), boot.loader),
        (LOADER_CONFIGURATION.to_owned(), configuration.as_bytes()),
        (format!("{UKI_FOLDER}/{}", Slot::A.entry_name()), boot.uki),
    ];
    for file in boot.keys.map_or(&[][..], |(files, _)| files) {
        files.push((format!("{ENROLMENT_KEYS}/{}", EnrolmentFile::file_name(file.variable)), &file.bytes));
    }
    if let Some(description) = boot.medium {
        files.push((MEDIUM_DESCRIPTION.to_owned(), description.as_bytes()));
    }
    for (path, content) in files {
        write_file(&mut bytes, &path, content).map_err(failed(&path))?;
    }
    Ok(bytes)
}

fn write_file(volume: &mut [u8], path: &str, content: &[u8]) -> io::Result<()> {
    let volume = FileSystem::new(Cursor::new(volume), FsOptions::new())?;
    let mut folder = volume.root_dir();
    let mut names = path.trim_start_matches('/').split('/').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_some() {
            folder = folder.create_dir(name)?;
        } else {
            let mut file = folder.create_file(name)?;
            file.truncate()?;
            file.write_all(content)?;
            file.flush()?;
        }
    }
    drop(folder);
    volume.unmount()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    const SIZE: u64 = 48 << 20;
    const BOOT: Boot<'_> = Boot { loader: b"boot loader", uki: b"kernel image", keys: None, medium: None };

    fn read(bytes: &mut [u8], path: &str) -> io::Result<String> {
        let volume = FileSystem::new(Cursor::new(bytes), FsOptions::new())?;
        let mut content = String::new();
        volume.root_dir().open_file(path)?.read_to_string(&mut content)?;
        Ok(content)
    }

    #[test]
    fn keys_lie_where_systemd_boot_looks_for_them() {
        let file = |variable| EnrolmentFile { variable, bytes: variable.as_bytes().to_vec() };
        let keys = [file("PK"), file("KEK"), file("db")];
        for (enrolment, word) in [(Enrolment::Safe, "if-safe"), (Enrolment::Force, "force")] {
            let boot = Boot { keys: Some((&keys, enrolment)), ..BOOT };
            let mut bytes = build(SIZE, &boot).expect("because the files are small");
            let configuration = read(&mut bytes, "loader/loader.conf").expect("because it was written");
            assert!(configuration.contains(&format!("\nsecure-boot-enroll {word}\n")), "{configuration}");
            for name in ["PK", "KEK", "db"] {
                assert_eq!(read(&mut bytes, &format!("loader/keys/auto/{name}.auth")).ok().as_deref(), Some(name));
            }
        }
        let mut without = build(SIZE, &BOOT).expect("because the files are small");
        let configuration = read(&mut without, "loader/loader.conf").expect("because it was written");
        assert!(!configuration.contains("secure-boot"), "{configuration}");
        assert!(read(&mut without, "loader/keys/auto/PK.auth").is_err());
    }

    #[test]
    fn a_medium_describes_itself_and_a_disk_does_not() {
        let boot = Boot { medium: Some("esp 1048576\n"), ..BOOT };
        let mut bytes = build(SIZE, &boot).expect("because the files are small");
        assert_eq!(read(&mut bytes, "cairn/medium").ok().as_deref(), Some("esp 1048576\n"));
        let mut bytes = build(SIZE, &BOOT).expect("because the files are small");
        assert!(read(&mut bytes, "cairn/medium").is_err());
    }

    #[test]
    fn files_are_found_again_under_their_names() {
        let mut bytes = build(SIZE, &BOOT).expect("because the files are small");
        let volume = FileSystem::new(Cursor::new(&mut bytes[..]), FsOptions::new()).expect("because it was just made");
        assert_eq!(volume.fat_type(), FatType::Fat32);
        let mut content = String::new();
        let mut file = volume.root_dir().open_file("EFI/Linux/cairn-a.efi").expect("because it was written");
        file.read_to_string(&mut content).expect("because it is text");
        assert_eq!(content, "kernel image");
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let build = || build(SIZE, &BOOT).expect("because the files are small");
        assert!(build() == build());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = build(SIZE, &Boot { uki: &vec![1; SIZE as usize], ..BOOT })
            .expect_err("because the file is as large as the partition");
        assert!(error.to_string().contains("/EFI/Linux/cairn-a.efi"), "{error}");
    }
}
