//! Builds a Cairn image in deterministic stages: packages -> root -> verity -> initramfs -> UKI -> disk.
//!
//! `cairn-image` calls `pipeline::build`; each stage is a function of its inputs and can be called alone. Nothing here needs root,
//! mounts anything or runs anything of the image. Must never depend on what the host has installed beyond apt and dpkg-deb:
//! tools come from pinned packages and run through their own dynamic linker.

pub mod artefact;
pub mod compare;
pub mod compilers;
pub mod digest;
pub mod disk;
pub mod elf;
pub mod esp;
pub mod extension;
pub mod files;
pub mod initramfs;
pub mod iso;
pub mod lock;
pub mod manifest;
pub mod modules;
pub mod oci;
pub mod packages;
pub mod pipeline;
pub mod policy;
pub mod profile;
pub mod progress;
pub mod qcow2;
pub mod root;
pub mod sbom;
pub mod secure_boot;
pub mod squashfs;
pub mod tools;
pub mod tree;
pub mod uki;
pub mod verity;
