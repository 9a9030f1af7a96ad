//! The access crate as its users see it: logins and TLS handshakes with real keys.

mod login;
mod standing;
mod tls;
