//! Replicates the store: openraft over the store's log, the gathering of proposals, the store's client and server.
