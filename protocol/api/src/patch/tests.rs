//! Patches against the documents that define them and against what kubectl sends.
