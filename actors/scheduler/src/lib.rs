//! The scheduler's deciding code: pure and deterministic, no I/O.
