//! KDL documents to validated cluster and machine configuration.
