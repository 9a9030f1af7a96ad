//! Stage 6: the unified kernel image: systemd's EFI stub with command line, initramfs and kernel as sections of one PE file.
//!
//! Called by `pipeline`. The firmware starts it, the stub hands the sections to the kernel; one signature would cover all. Sections
//! are appended behind the stub's own, at addresses aligned as its header asks. Format: Microsoft's PE specification,
//! UAPI group's UKI specification.

/// Offset of the field in the DOS header that says where the PE header is.
const PE_OFFSET_FIELD: usize = 0x3c;
/// Bytes of the COFF header behind the PE signature.
const COFF_BYTES: usize = 20;
/// Bytes of one section header.
const SECTION_BYTES: usize = 40;
/// Initialised data, readable.
const SECTION_FLAGS: u32 = 0x4000_0040;
/// The optional header of 64-bit files.
const PE32_PLUS: u16 = 0x020b;

/// What goes into the image.
pub struct Parts<'a> {
    /// `linuxx64.efi.stub` of systemd.
    pub stub: &'a [u8],
    /// Contents of os-release: the boot loader shows its name and sorts by its version.
    pub os_release: &'a str,
    /// Kernel command line.
    pub command_line: &'a str,
    /// Kernel release.
    pub release: &'a str,
    /// Compressed initramfs.
    pub initramfs: &'a [u8],
    /// The kernel's bzImage.
    pub kernel: &'a [u8],
    /// The public half of the policy key, as PEM.
    pub policy_key: Option<&'a str>,
    /// What the policy key signed of this image; it is not measured, because it is made from what is.
    pub policy_signatures: Option<&'a str>,
}

/// Why the stub cannot be extended.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UkiError {
    /// Not a PE file, or not of the kind expected.
    #[error("the EFI stub is not a 64-bit PE file: {0}")]
    Stub(&'static str),
    /// Its header has no room for our sections.
    #[error("the EFI stub's header has room for {room} more sections, {wanted} are needed")]
    NoRoom {
        /// Section headers that fit.
        room: usize,
        /// Section headers that are needed.
        wanted: usize,
    },
    /// More than a PE file holds.
    #[error("the unified kernel image would exceed 4 GiB")]
    TooLarge,
}

/// Where the stub's header keeps what must be changed.
pub(crate) struct Header {
    coff: usize,
    optional: usize,
    sections: usize,
    count: usize,
    section_alignment: u32,
    file_alignment: u32,
    header_bytes: usize,
}

/// Builds the image.
///
/// # Errors
/// See [`UkiError`].
pub fn build(parts: &Parts<'_>) -> Result<Vec<u8>, UkiError> {
    let command_line = format!("{}\0", parts.command_line);
    // The kernel comes last: while it unpacks itself, nothing of ours lies behind it.
    let mut sections = vec![
        (".osrel", parts.os_release.as_bytes()),
        (".cmdline", command_line.as_bytes()),
        (".uname", parts.release.as_bytes()),
    ];
    sections.extend(parts.policy_key.map(|key| (".pcrpkey", key.as_bytes())));
    sections.extend(parts.policy_signatures.map(|signatures| (".pcrsig", signatures.as_bytes())));
    sections.extend([(".initrd", parts.initramfs), (".linux", parts.kernel)]);
    append_sections(parts.stub, &sections)
}

/// The same kernel, command line and initramfs as `image` has, with `more` behind the initramfs, as an image of its own: for a machine
/// that starts from the network, where there is no disk to find the rest on. It has no policy, so it opens no encrypted volume.
///
/// # Errors
/// When `image` is none of ours, and as [`build`].
pub fn with_more_initramfs(stub: &[u8], image: &[u8], more: &[u8]) -> Result<Vec<u8>, UkiError> {
    let part = |name| section(image, name).ok_or(UkiError::Stub("it lacks a section of ours"));
    let mut initramfs = part(".initrd")?.to_vec();
    // The kernel begins an archive at multiples of four bytes only, and passes over zeros between two.
    initramfs.resize(initramfs.len().next_multiple_of(4), 0);
    initramfs.extend_from_slice(more);
    let mut sections = Vec::new();
    for name in [".osrel", ".cmdline", ".uname"] {
        sections.push((name, part(name)?));
    }
    sections.extend([(".initrd", initramfs.as_slice()), (".linux", part(".linux")?)]);
    append_sections(stub, &sections)
}

/// The content of one section of a unified kernel image; none when it has no such section.
pub fn section<'a>(image: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let header = Header::parse(image).ok()?;
    (0..header.count).find_map(|index| {
        let at = header.sections + index * SECTION_BYTES;
        let entry = image.get(at..at + SECTION_BYTES)?;
        let found = entry[..8].split(|byte| *byte == 0).next()?;
        let size = u32_at(entry, 8).ok()?.min(u32_at(entry, 16).ok()?) as usize;
        let offset = u32_at(entry, 20).ok()? as usize;
        if found == name.as_bytes() { image.get(offset..offset.checked_add(size)?) } else { None }
    })
}

/// Appends sections to a PE file.
fn append_sections(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, UkiError> {
    let header = Header::parse(stub)?;
    let room = (header.header_bytes.saturating_sub(header.sections)) / SECTION_BYTES - header.count;
    if room < sections.len() {
        return Err(UkiError::NoRoom { room, wanted: sections.len() });
    }
    let mut image = stub.to_vec();
    let mut address = header.end_of_sections(stub)?;
    for (index, (name, content)) in sections.iter().enumerate() {
        image.resize(image.len().next_multiple_of(header.file_alignment as usize), 0);
        let offset = to_u32(image.len())?;
        image.extend_from_slice(content);
        image.resize(image.len().next_multiple_of(header.file_alignment as usize), 0);
        let raw_size = to_u32(image.len())? - offset;
        let virtual_size = to_u32(content.len())?;

        let mut entry = [0; SECTION_BYTES];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        entry[8..12].copy_from_slice(&virtual_size.to_le_bytes());
        entry[12..16].copy_from_slice(&address.to_le_bytes());
        entry[16..20].copy_from_slice(&raw_size.to_le_bytes());
        entry[20..24].copy_from_slice(&offset.to_le_bytes());
        entry[36..40].copy_from_slice(&SECTION_FLAGS.to_le_bytes());
        let at = header.sections + (header.count + index) * SECTION_BYTES;
        image[at..at + SECTION_BYTES].copy_from_slice(&entry);
        address = next_address(address, virtual_size, header.section_alignment)?;
    }
    let count = u16::try_from(header.count + sections.len()).map_err(|_| UkiError::TooLarge)?;
    image[header.coff + 2..header.coff + 4].copy_from_slice(&count.to_le_bytes());
    image[header.optional + 56..header.optional + 60].copy_from_slice(&address.to_le_bytes());
    // The check sum is optional for EFI applications; an outdated one is worse than none.
    image[header.optional + 64..header.optional + 68].fill(0);
    Ok(image)
}

impl Header {
    pub(crate) fn parse(stub: &[u8]) -> Result<Header, UkiError> {
        if stub.get(..2) != Some(b"MZ") {
            return Err(UkiError::Stub("no DOS header"));
        }
        let pe = u32_at(stub, PE_OFFSET_FIELD)? as usize;
        if stub.get(pe..pe + 4) != Some(b"PE\0\0") {
            return Err(UkiError::Stub("no PE signature"));
        }
        let coff = pe + 4;
        let optional = coff + COFF_BYTES;
        if u16_at(stub, optional)? != PE32_PLUS {
            return Err(UkiError::Stub("no 64-bit optional header"));
        }
        let header = Header {
            coff,
            optional,
            sections: optional + usize::from(u16_at(stub, coff + 16)?),
            count: usize::from(u16_at(stub, coff + 2)?),
            section_alignment: u32_at(stub, optional + 32)?,
            file_alignment: u32_at(stub, optional + 36)?,
            header_bytes: u32_at(stub, optional + 60)? as usize,
        };
        let aligned = header.section_alignment.is_power_of_two() && header.file_alignment.is_power_of_two();
        let whole =
            header.sections + header.count * SECTION_BYTES <= header.header_bytes && header.header_bytes <= stub.len();
        if aligned && whole { Ok(header) } else { Err(UkiError::Stub("its header contradicts itself")) }
    }

    /// Where the optional header begins.
    pub(crate) fn optional(&self) -> usize {
        self.optional
    }

    /// How many data directories the optional header has room for.
    pub(crate) fn directories(&self, file: &[u8]) -> Result<usize, UkiError> {
        let room = (self.sections - self.optional).saturating_sub(112) / 8;
        Ok(room.min(u32_at(file, self.optional + 108)? as usize))
    }

    /// Where the last section's bytes end in the file; none when header and sections leave gaps or overlap.
    pub(crate) fn end_of_raw_data(&self, file: &[u8]) -> Result<Option<usize>, UkiError> {
        let mut sections = Vec::new();
        for index in 0..self.count {
            let at = self.sections + index * SECTION_BYTES;
            let (size, offset) = (u32_at(file, at + 16)? as usize, u32_at(file, at + 20)? as usize);
            if size > 0 {
                sections.push((offset, size));
            }
        }
        sections.sort_unstable();
        let mut end = self.header_bytes;
        for (offset, size) in sections {
            if offset != end {
                return Ok(None);
            }
            end += size;
        }
        Ok(Some(end))
    }

    /// The first free address behind the stub's own sections.
    fn end_of_sections(&self, stub: &[u8]) -> Result<u32, UkiError> {
        let mut end = 0;
        for index in 0..self.count {
            let at = self.sections + index * SECTION_BYTES;
            let (size, address) = (u32_at(stub, at + 8)?, u32_at(stub, at + 12)?);
            end = end.max(next_address(address, size, self.section_alignment)?);
        }
        Ok(end)
    }
}

fn next_address(address: u32, size: u32, alignment: u32) -> Result<u32, UkiError> {
    let end = address.checked_add(size).and_then(|end| end.checked_next_multiple_of(alignment));
    end.ok_or(UkiError::TooLarge)
}

fn to_u32(length: usize) -> Result<u32, UkiError> {
    u32::try_from(length).map_err(|_| UkiError::TooLarge)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, UkiError> {
    let field = bytes.get(at..at + 4).ok_or(UkiError::Stub("it is cut off"))?;
    Ok(u32::from_le_bytes(field.try_into().expect("because four bytes were asked for")))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, UkiError> {
    let field = bytes.get(at..at + 2).ok_or(UkiError::Stub("it is cut off"))?;
    Ok(u16::from_le_bytes(field.try_into().expect("because two bytes were asked for")))
}

#[cfg(test)]
mod tests;
