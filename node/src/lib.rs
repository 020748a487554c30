//! The node process: the binary that is started on every machine.
