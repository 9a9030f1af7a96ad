//! The machine API: messages, clients and servers generated from `proto/cairn/machine/v1`.
//!
//! `machine.proto` is what people reach over mTLS; `local.proto` is what services on the same machine ask of machined.
//! `permits.proto` is what machined asks of the control plane beside it, before the machine goes away.
//! `disk_keys.proto` is what machines without a TPM ask of the control-plane machines' machineds.
//! This crate holds wire types only: whoever receives one converts it at once.
#![allow(missing_docs, clippy::all, reason = "generated from documented .proto files")]

/// TCP port of the machine API on every machine.
pub const MACHINE_API_PORT: u16 = 50_000;

/// Socket that machined serves [`local_server`] on; reached by services on the machine only.
pub const LOCAL_SOCKET: &str = "/run/cairn/machined.sock";

/// Socket that the control plane serves [`permits_server`] on; reached by machined only.
pub const PERMITS_SOCKET: &str = "/run/cairn/permits.sock";

tonic::include_proto!("cairn.machine.v1");
