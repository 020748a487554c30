//! What lives in the cluster: one module per kind, supervision, event routing.
