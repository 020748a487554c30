//! The message-based shell and the daily verbs.
