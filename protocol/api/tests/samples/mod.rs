//! The least object of every kind, and what is said when something of it is missing or wrong.
#![allow(dead_code, missing_docs)]

mod control;
mod devices;
mod others;
mod workloads;

use serde_json::Value;

/// A pointer, what is put there, and a cause that must be among those of the refusal.
pub type Case = (&'static str, Value, &'static str);

pub struct Sample {
    pub api_version: &'static str,
    pub kind: &'static str,
    /// Without apiVersion and kind; without metadata its name is `a`.
    pub object: Value,
    /// What makes a create fail.
    pub refused: Vec<Case>,
    /// What makes an update fail; a cause begins so.
    pub fixed: Vec<Case>,
}

pub fn sample(api_version: &'static str, kind: &'static str, object: Value, refused: Vec<Case>) -> Sample {
    Sample {
        api_version,
        kind,
        object,
        refused,
        fixed: Vec::new(),
    }
}

impl Sample {
    pub fn fixed(mut self, fixed: Vec<Case>) -> Sample {
        self.fixed = fixed;
        self
    }
}

pub fn samples() -> Vec<Sample> {
    let mut all = workloads::samples();
    all.extend(others::samples());
    all.extend(control::samples());
    all.extend(devices::samples());
    all
}
