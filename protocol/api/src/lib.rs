//! The Kubernetes API's semantics: the table of kinds, defaulting, validation, patches, tables, OpenAPI. No I/O.
