//! Whether an extension is the one that the document names, and which folders are merged of which. Pure.

use init_boot::artefact::{ExtensionDigest, ExtensionFolder, ExtensionManifest, ExtensionName};
use machined_config::ExtensionConfig;

/// The one architecture that this release runs on, as manifests write it.
const ARCHITECTURE: &str = "amd64";

/// Why a file is not what the document means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionRefusal {
    /// Another file.
    #[error(
        "the URL serves {found}, and the document names {wanted}; correct one of them: `cairn-image extension inspect` shows a file's digest"
    )]
    OtherDigest {
        /// What is served.
        found: ExtensionDigest,
        /// What is named.
        wanted: ExtensionDigest,
    },
    /// Called otherwise.
    #[error("the extension calls itself {found}, and the document {wanted}; use its own name in the document")]
    OtherName {
        /// Its own.
        found: ExtensionName,
        /// The document's.
        wanted: ExtensionName,
    },
    /// For other processors.
    #[error("the extension is for {found}, this machine is {ARCHITECTURE}; build it for {ARCHITECTURE}")]
    OtherMachine {
        /// What it is for.
        found: String,
    },
}

/// Judges a manifest by what the document says. The digest in the accepted step vouches, and nothing else does.
///
/// # Errors
/// [`ExtensionRefusal`], the first that applies.
pub fn judge(manifest: &ExtensionManifest, config: &ExtensionConfig) -> Result<(), ExtensionRefusal> {
    let found = manifest.digest();
    if found != config.digest {
        return Err(ExtensionRefusal::OtherDigest { found, wanted: config.digest });
    }
    if manifest.name != config.name {
        return Err(ExtensionRefusal::OtherName { found: manifest.name.clone(), wanted: config.name.clone() });
    }
    if manifest.architecture != ARCHITECTURE {
        return Err(ExtensionRefusal::OtherMachine { found: manifest.architecture.clone() });
    }
    Ok(())
}

/// Whether this kernel is the one of its modules; an extension without modules is for every kernel.
pub(super) fn fits_kernel(manifest: &ExtensionManifest, kernel: &str) -> bool {
    manifest.kernel.as_deref().is_none_or(|wanted| wanted == kernel)
}

/// Which extensions each folder is merged of, in the order of names: where two have a file of one name, the first one's counts.
pub(super) fn layers<'a>(
    attached: impl Iterator<Item = &'a ExtensionManifest> + Clone,
) -> Vec<(ExtensionFolder, Vec<ExtensionName>)> {
    let of = |folder: ExtensionFolder| {
        let mut names: Vec<ExtensionName> = attached
            .clone()
            .filter(|manifest| manifest.folders.contains(&folder))
            .map(|manifest| manifest.name.clone())
            .collect();
        names.sort();
        (folder, names)
    };
    ExtensionFolder::ALL.into_iter().map(of).filter(|(_, names)| !names.is_empty()).collect()
}
