//! The Kubernetes REST API: one generic registry over the store.
