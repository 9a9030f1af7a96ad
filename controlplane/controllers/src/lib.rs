//! deployment, replicaset, endpointslice, namespace, garbage collector, scheduling: plan.rs and execute.rs.
