//! Rules that objects have to keep, with upstream's texts: what all kinds share is here, the rest in [`crate::strategy`].

mod metadata;
pub mod names;

pub use metadata::{annotations, label_selector, labels, metadata, metadata_update};
