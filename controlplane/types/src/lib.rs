//! Kubernetes kinds as data: registry, defaulting, validation, merge keys, printers, patches.
