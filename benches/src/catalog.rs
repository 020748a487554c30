//! Owns the collection of workloads: those of the files that are compiled in, and a file that the user names. Called by the
//! programs and the tests. It must find a case by its exact name and suggest near ones otherwise.

use crate::expression::{ExpressionError, Parameters};
use crate::template::Template;
use crate::workload::{self, Case, Sizes, Step, Workload, WorkloadError};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const TEMPLATES: (&str, &str) = ("templates.yaml", include_str!("../workloads/templates.yaml"));
const FILES: &[(&str, &str)] = &[
    ("misc.yaml", include_str!("../workloads/misc.yaml")),
    (
        "default_preemption.yaml",
        include_str!("../workloads/default_preemption.yaml"),
    ),
    ("affinity.yaml", include_str!("../workloads/affinity.yaml")),
    (
        "topology_spreading.yaml",
        include_str!("../workloads/topology_spreading.yaml"),
    ),
    ("volumes.yaml", include_str!("../workloads/volumes.yaml")),
    ("event_handling.yaml", include_str!("../workloads/event_handling.yaml")),
    ("batching.yaml", include_str!("../workloads/batching.yaml")),
    ("podgroup.yaml", include_str!("../workloads/podgroup.yaml")),
    ("dra.yaml", include_str!("../workloads/dra.yaml")),
    ("scale.yaml", include_str!("../workloads/scale.yaml")),
];

/// The workload whose cases show how the time grows with the number of nodes.
pub const SCALE: &str = "Scale";

/// Why a case was not found.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// No workload has this name.
    #[error("there is no workload `{name}`; near names are {near}; `--list` shows all")]
    Workload {
        /// The name.
        name: String,
        /// Names like it.
        near: String,
    },
    /// The workload has no such case.
    #[error("workload {workload} has no case `{name}`; it has {cases}")]
    Case {
        /// The workload.
        workload: String,
        /// The name.
        name: String,
        /// Its cases.
        cases: String,
    },
}

/// One case, ready to be run.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Its workload.
    pub workload: Arc<Workload>,
    /// The case.
    pub case: Case,
    /// The templates that the workload may name.
    pub templates: Arc<BTreeMap<String, Template>>,
    /// The file that it is from.
    pub file: Arc<str>,
}

impl Selected {
    /// The same case in the sizes of a quick run.
    pub fn small(mut self) -> Self {
        self.case.params = self.workload.small.clone();
        self.case.threshold = None;
        self.case.bounds = Default::default();
        self
    }

    /// The parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.case.params
    }

    /// What the case amounts to.
    pub fn sizes(&self) -> Result<Sizes, ExpressionError> {
        self.workload.sizes(&self.case.params, &|step| self.labels_of(step))
    }

    /// The labels of the pods that a step makes, as its template writes them.
    fn labels_of(&self, step: &Step) -> BTreeMap<String, String> {
        let name = step.template.as_ref().or(self.workload.default_pod.as_ref());
        let labels = name
            .and_then(|name| self.templates.get(name))
            .and_then(|template| template.value().pointer("/metadata/labels")?.as_object().cloned());
        let texts = labels.into_iter().flatten();
        texts
            .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())))
            .collect()
    }
}

/// All workloads.
#[derive(Clone, Debug)]
pub struct Catalog {
    cases: Vec<Selected>,
}

impl Catalog {
    /// The workloads that are compiled in.
    pub fn embedded() -> Result<Self, WorkloadError> {
        let mut catalog = Self { cases: Vec::new() };
        let shared = workload::read(TEMPLATES.0, TEMPLATES.1, &[])?.templates;
        for (file, text) in FILES {
            catalog.add(file, text, &shared)?;
        }
        Ok(catalog)
    }

    /// The workloads of one file, which may name the templates that are compiled in.
    pub fn from_file(path: &Path) -> Result<Self, WorkloadError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| WorkloadError::Unreadable {
            file: file.clone(),
            source,
        })?;
        Self::from_text(&file, &text)
    }

    /// The same from its text.
    pub fn from_text(file: &str, text: &str) -> Result<Self, WorkloadError> {
        let mut catalog = Self { cases: Vec::new() };
        let shared = workload::read(TEMPLATES.0, TEMPLATES.1, &[])?.templates;
        catalog.add(file, text, &shared)?;
        Ok(catalog)
    }

    fn add(
        &mut self,
        file: &str,
        text: &str,
        shared: &BTreeMap<String, serde_json::Value>,
    ) -> Result<(), WorkloadError> {
        let known: Vec<String> = shared.keys().cloned().collect();
        let parsed = workload::read(file, text, &known)?;
        let all = shared.iter().chain(&parsed.templates);
        let templates: BTreeMap<String, Template> = all
            .map(|(name, value)| (name.clone(), Template::new(name, value.clone())))
            .collect();
        let templates = Arc::new(templates);
        let file: Arc<str> = file.into();
        for workload in parsed.workloads {
            let workload = Arc::new(workload);
            for case in &workload.cases {
                self.cases.push(Selected {
                    workload: workload.clone(),
                    case: case.clone(),
                    templates: templates.clone(),
                    file: file.clone(),
                });
            }
        }
        Ok(())
    }

    /// Every case, in the order of the files.
    pub fn cases(&self) -> &[Selected] {
        &self.cases
    }

    /// The cases of a workload, or one of them.
    pub fn select(&self, workload: &str, case: Option<&str>) -> Result<Vec<Selected>, SelectionError> {
        let of_workload: Vec<&Selected> = self.cases.iter().filter(|c| c.workload.name == workload).collect();
        if of_workload.is_empty() {
            let names = self.cases.iter().map(|c| c.workload.name.as_str());
            return Err(SelectionError::Workload {
                name: workload.to_owned(),
                near: near(workload, names),
            });
        }
        let chosen: Vec<Selected> = of_workload
            .iter()
            .filter(|c| case.is_none_or(|name| c.case.name == name))
            .map(|c| (*c).clone())
            .collect();
        match (chosen.is_empty(), case) {
            (true, Some(name)) => Err(SelectionError::Case {
                workload: workload.to_owned(),
                name: name.to_owned(),
                cases: of_workload
                    .iter()
                    .map(|c| c.case.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
            _ => Ok(chosen),
        }
    }
}

/// The three names that are most like a name.
fn near<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let wanted = name.to_lowercase();
    let mut names: Vec<&str> = names.collect();
    names.dedup();
    let mut scored: Vec<(f64, &str)> = names
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &candidate.to_lowercase()), candidate))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.truncate(3);
    scored.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_is_answered_with_near_ones() {
        let catalog = Catalog::embedded().unwrap();
        let error = catalog.select("schedulingbasik", None).unwrap_err().to_string();
        assert!(error.contains("near names are SchedulingBasic,"), "{error}");
        let error = catalog
            .select("SchedulingBasic", Some("5Nodes"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("it has 5000Nodes_10000Pods, 5000Nodes_50000Pods"),
            "{error}"
        );
    }
}
