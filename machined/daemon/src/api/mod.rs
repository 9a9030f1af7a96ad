//! The services of `machined/api`: for people, for maintenance, for services on this machine, for other machines' disk keys.

mod attest;
pub(crate) mod disk_keys;
pub(crate) mod local_service;
pub(crate) mod machine_service;
pub(crate) mod maintenance_service;
mod orders;
mod resets;
#[cfg(test)]
mod tests;
mod upgrades;
