//! The replicated state machine: objects by key, history by revision, watches; over RocksDB.
