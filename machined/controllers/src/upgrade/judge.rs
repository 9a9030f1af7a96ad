//! Whether an image may run on this machine: named by the accepted step or signed by one of its `image` keys, never below its floor.
//!
//! Pure. That the rest of the artefact is what its manifest says is the host's to check.

use init_boot::artefact::{ArtefactHeader, IMAGE_NAMESPACE, ImageDigest};
use machined_access::{ImageRules, verify_signature};

/// The one architecture that this release runs on, as manifests write it.
const ARCHITECTURE: &str = "amd64";

/// What an image is judged by: the accepted step, and what runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Image keys and floor.
    pub images: ImageRules,
    /// The image that the machine's document names.
    pub named: Option<ImageDigest>,
    /// The cluster's level.
    pub level: u32,
    /// The profile of the running image; empty when it is not known.
    pub profile: String,
}

/// Why an image may not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefusal {
    /// Nobody vouches for it.
    #[error(
        "image {0} is neither named by this machine's document nor signed by a key with use `image` in the accepted step; \
         name its digest in machines/<name>.kdl, or sign it with `cairn-image sign`"
    )]
    Nobody(ImageDigest),
    /// Too old.
    #[error("the image's release number {number} lies below the floor {floor} of the accepted step; use a newer image")]
    BelowFloor {
        /// Its number.
        number: u64,
        /// The floor.
        floor: u64,
    },
    /// It does not speak what the cluster speaks.
    #[error(
        "the image speaks cluster level {image}, this cluster is at level {cluster}; use a release that speaks {cluster}"
    )]
    Level {
        /// Its level.
        image: u32,
        /// The cluster's.
        cluster: u32,
    },
    /// For other machines.
    #[error("the image is for {found}, this machine is {own}; use the artefact for {own}")]
    OtherMachine {
        /// What it is for.
        found: String,
        /// What this machine is.
        own: String,
    },
}

/// Whether a release number may run.
///
/// # Errors
/// When it lies below the floor.
pub fn floor_permits(number: u64, images: &ImageRules) -> Result<(), ImageRefusal> {
    if number < images.floor {
        return Err(ImageRefusal::BelowFloor { number, floor: images.floor });
    }
    Ok(())
}

/// Judges a header.
///
/// # Errors
/// [`ImageRefusal`], the first of: nobody vouches for it, below the floor, another level, another kind of machine.
pub fn judge(header: &ArtefactHeader, rules: &Rules) -> Result<(), ImageRefusal> {
    let (manifest, digest) = (&header.manifest, header.manifest.digest());
    let text = manifest.render();
    let signed = || {
        let signers = header
            .signatures()
            .iter()
            .filter_map(|armour| verify_signature(IMAGE_NAMESPACE, text.as_bytes(), armour).ok());
        signers.into_iter().any(|signed| rules.images.keys.contains(&signed.key))
    };
    if rules.named != Some(digest) && !signed() {
        return Err(ImageRefusal::Nobody(digest));
    }
    floor_permits(manifest.number.0, &rules.images)?;
    if manifest.level < rules.level {
        return Err(ImageRefusal::Level { image: manifest.level, cluster: rules.level });
    }
    if manifest.architecture != ARCHITECTURE {
        let found = manifest.architecture.clone();
        return Err(ImageRefusal::OtherMachine { found, own: ARCHITECTURE.to_owned() });
    }
    // Another profile lacks drivers that this machine may need to reach its disk.
    if !rules.profile.is_empty() && manifest.profile != rules.profile {
        let kind = |profile: &str| format!("profile {profile}");
        return Err(ImageRefusal::OtherMachine { found: kind(&manifest.profile), own: kind(&rules.profile) });
    }
    Ok(())
}
