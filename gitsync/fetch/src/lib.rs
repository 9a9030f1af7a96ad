//! Git transport: brings the objects of a branch, and believes none of them.
//!
//! ```text
//! Fetcher (in gitsync)  --Request, JSON on stdin-->   child::run (`gitsync fetch-child`: own user, limits, no privileges)
//!        ^                                                | gix over http(s) into a bare repository of its own
//!        +--- ObjectSet hashes each again <-- frames -----+ statements, first-parent chain with its trees and blobs, on stdout
//! ```
//!
//! Everything that parses what a server sent runs in the child; the parent only reads length-prefixed frames within limits.
//! A hostile server can at worst make a fetch fail. Nothing is ever checked out, no hook, filter, submodule or credential
//! helper runs, and only `http` and `https` are spoken.

mod bundle;
pub mod child;
mod dialect;
mod fetcher;
mod folders;
mod frame;
pub mod local;
mod request;
mod statements;
mod transport;
mod url;

pub use dialect::Dialect;
pub use fetcher::{Answer, Brought, FetchError, Fetched, Fetcher, Limits, read_answer};
pub use folders::Folders;
pub use request::Request;
pub use url::{RepositoryUrl, UrlError};
