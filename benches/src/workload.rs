//! Owns the format of workload files: templates, workloads with their steps, and cases with their sizes. Called by the
//! catalogue (embedded files) and for `--file`. It must refuse what it does not understand, with file and line.

use crate::expression::{ExpressionError, Parameters, evaluate};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Why a workload file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// It cannot be read.
    #[error("{file} cannot be read: {source}")]
    Unreadable {
        /// Which file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the YAML of a workload file.
    #[error("{file}{place}: {message}")]
    Yaml {
        /// Which file.
        file: String,
        /// `:line:column`, if known.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// A step cannot be carried out.
    #[error("{file}:{line}: workload {workload}, step {step} ({opcode}): {message}")]
    Step {
        /// Which file.
        file: String,
        /// The line of the step.
        line: usize,
        /// The workload.
        workload: String,
        /// The number of the step, from 0 (as in the namespaces `namespace-STEP`).
        step: usize,
        /// Its opcode.
        opcode: String,
        /// What is wrong, and what to do.
        message: String,
    },
}

/// A workload file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadFile {
    /// API objects by name; expressions in `{{ }}`.
    #[serde(default)]
    pub templates: BTreeMap<String, Value>,
    /// The workloads.
    #[serde(default)]
    pub workloads: Vec<Workload>,
}

/// What happens, for any size.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// What it is about.
    #[serde(default)]
    pub description: String,
    /// The template of pods whose step names none.
    #[serde(default)]
    pub default_pod: Option<String>,
    /// `false` leaves Kubernetes' default spread constraints away.
    #[serde(default = "yes")]
    pub default_spread_constraints: bool,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// The sizes of a quick run, for tests and `--small`.
    #[serde(default)]
    pub small: Parameters,
    /// The cases.
    pub cases: Vec<Case>,
}

fn yes() -> bool {
    true
}

/// One size of a workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Pods a second that kube-scheduler's own benchmark demands.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// What else is said about the threshold.
    #[serde(default)]
    pub threshold_note: Option<String>,
    /// The sizes by name.
    #[serde(default)]
    pub params: Parameters,
    /// What the run must not exceed.
    #[serde(default)]
    pub bounds: Bounds,
}

/// Limits of a case beyond its outcome.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bounds {
    /// Seconds of the timed section.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Largest resident memory in bytes.
    #[serde(default)]
    pub rss_bytes: Option<u64>,
}

/// What a step does. The names are those of scheduler_perf.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Opcode {
    /// Nodes from `template`.
    CreateNodes,
    /// Namespaces `PREFIX-0`, `PREFIX-1`, ... from `template`, if one is named.
    CreateNamespaces,
    /// Pods; waits until all are bound unless `skipWaitToCompletion`.
    CreatePods,
    /// Pods in each of the namespaces `namespacePrefix`-0 to -`namespaces`.
    CreatePodSets,
    /// Objects of any kind that scheduling reads, from `template`; one without `count`.
    CreateAny,
    /// Pod groups named by their template.
    CreatePodGroups,
    /// Objects of `templates` come, one round of them each `intervalMilliseconds`.
    Churn,
    /// Pods go, `deletePodsPerSecond` or at once.
    DeletePods,
    /// Pods are replaced by `template` with the same name, `updatePerSecond` or at once.
    UpdateAny,
    /// Waits until the selected pods are bound, or were `Attempted`.
    Barrier,
    /// The timed section begins; measured are the selected pods of the steps from here on.
    StartCollectingMetrics,
    /// The timed section ends.
    StopCollectingMetrics,
}

/// A count: a number or an expression over the case's parameters.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Count {
    /// The number.
    Number(u64),
    /// The expression.
    Expression(String),
}

/// One step. Which fields an opcode takes is checked when the file is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Step {
    /// What it does.
    pub opcode: Opcode,
    /// How many.
    #[serde(default)]
    pub count: Option<Count>,
    /// The template of what is made.
    #[serde(default)]
    pub template: Option<String>,
    /// Templates of churn.
    #[serde(default)]
    pub templates: Vec<String>,
    /// The namespace; `namespace-STEP` by default.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The prefix of namespaces.
    #[serde(default)]
    pub namespace_prefix: Option<String>,
    /// How many namespaces a pod set has.
    #[serde(default)]
    pub namespaces: Option<Count>,
    /// A persistent volume for each pod, bound to its claim.
    #[serde(default)]
    pub persistent_volume: Option<String>,
    /// A claim for each pod.
    #[serde(default)]
    pub persistent_volume_claim: Option<String>,
    /// A label of the nodes whose values take turns.
    #[serde(default)]
    pub label_nodes: Option<NodeLabel>,
    /// What the nodes' drivers can attach, by driver.
    #[serde(default)]
    pub csi_drivers: BTreeMap<String, CsiDriver>,
    /// The pods of this step are measured, and the timed section is this step.
    #[serde(default)]
    pub collect_metrics: bool,
    /// Goes on without waiting for the pods.
    #[serde(default)]
    pub skip_wait_to_completion: bool,
    /// How often churn comes.
    #[serde(default)]
    pub interval_milliseconds: Option<u64>,
    /// `create` leaves what came before, `recreate` takes the previous objects away first.
    #[serde(default)]
    pub mode: Option<ChurnMode>,
    /// How fast pods go.
    #[serde(default)]
    pub delete_pods_per_second: Option<u64>,
    /// How fast pods are updated.
    #[serde(default)]
    pub update_per_second: Option<u64>,
    /// What a barrier waits for.
    #[serde(default)]
    pub stage: Option<StageRequirement>,
    /// Only pods with these labels.
    #[serde(default)]
    pub label_selector: BTreeMap<String, String>,
    /// Only pods in these namespaces.
    #[serde(default)]
    pub in_namespaces: Vec<String>,
    /// What must have come of it when the workload ends.
    #[serde(default)]
    pub expect: Option<Expectation>,
}

/// A node label whose values take turns.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLabel {
    /// The key.
    pub key: String,
    /// The values.
    pub values: Vec<String>,
}

/// What a node's driver can do.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsiDriver {
    /// Volumes that it attaches to a node.
    pub count: u32,
}

/// What churn does with what it made before.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum ChurnMode {
    /// It stays.
    Create,
    /// It is taken away before the next comes.
    Recreate,
}

/// What a barrier waits for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum StageRequirement {
    /// Every selected pod was looked at once, or is held back by a gate.
    Attempted,
    /// Every selected pod is bound.
    Scheduled,
}

/// What must have come of the pods of a step when the workload ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expectation {
    /// How many of them are bound: `all` or `none`.
    #[serde(default)]
    pub bound: Option<BoundShare>,
    /// How many pods had to go for each of them that was bound.
    #[serde(default)]
    pub victims_each: Option<u64>,
}

/// How many of a step's pods must be bound.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum BoundShare {
    /// Each of them.
    All,
    /// Not one.
    None,
    /// Any number: what is left depends on when they were deleted.
    Any,
}

/// The sizes of a case, as scheduler_perf states them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Nodes before the timed section, and in it.
    pub nodes: u64,
    /// Pods made outside of the timed section.
    pub init_pods: u64,
    /// Pods that are measured.
    pub measured_pods: u64,
}

impl Count {
    /// Its value.
    pub fn value(&self, parameters: &Parameters) -> Result<u64, ExpressionError> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Expression(expression) => {
                let value = evaluate(expression, parameters)?;
                u64::try_from(value).map_err(|_| ExpressionError::Arithmetic {
                    expression: expression.clone(),
                })
            }
        }
    }
}

impl Step {
    /// How many objects it makes in all.
    pub fn total(&self, parameters: &Parameters) -> Result<u64, ExpressionError> {
        let each = self.count.as_ref().map_or(Ok(1), |count| count.value(parameters))?;
        let sets = self
            .namespaces
            .as_ref()
            .map_or(Ok(1), |count| count.value(parameters))?;
        Ok(each * sets)
    }

    /// Whether it makes pods.
    pub fn makes_pods(&self) -> bool {
        matches!(self.opcode, Opcode::CreatePods | Opcode::CreatePodSets)
    }

    /// Whether its selectors (`inNamespaces`, `labelSelector`) select a pod.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let in_namespace = self.in_namespaces.is_empty() || self.in_namespaces.iter().any(|name| name == namespace);
        let mut wanted = self.label_selector.iter();
        in_namespace && wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Workload {
    /// What a case amounts to. `labels` tells the labels of the pods that a step makes.
    pub fn sizes(
        &self,
        parameters: &Parameters,
        labels: &dyn Fn(&Step) -> BTreeMap<String, String>,
    ) -> Result<Sizes, ExpressionError> {
        let mut sizes = Sizes::default();
        let mut collecting: Option<&Step> = None;
        for step in &self.steps {
            match step.opcode {
                Opcode::StartCollectingMetrics => collecting = Some(step),
                Opcode::StopCollectingMetrics => collecting = None,
                Opcode::CreateNodes => sizes.nodes += step.total(parameters)?,
                Opcode::CreatePods | Opcode::CreatePodSets => {
                    let namespace = step.namespace.as_deref().unwrap_or_default();
                    let selected = collecting.is_some_and(|begun| begun.selects(namespace, &labels(step)));
                    let total = step.total(parameters)?;
                    match step.collect_metrics || selected {
                        true => sizes.measured_pods += total,
                        false => sizes.init_pods += total,
                    }
                }
                _ => {}
            }
        }
        Ok(sizes)
    }
}

/// Reads a workload file. `known_templates` are those that it may name without having them.
pub fn read(file: &str, text: &str, known_templates: &[String]) -> Result<WorkloadFile, WorkloadError> {
    let parsed: WorkloadFile = serde_norway::from_str(text).map_err(|error| WorkloadError::Yaml {
        file: file.to_owned(),
        place: error
            .location()
            .map(|at| format!(":{}:{}", at.line(), at.column()))
            .unwrap_or_default(),
        message: error.to_string(),
    })?;
    for workload in &parsed.workloads {
        for (at, step) in workload.steps.iter().enumerate() {
            let knows = |name: &str| parsed.templates.contains_key(name) || known_templates.iter().any(|t| t == name);
            if let Err(message) = check(workload, step, &knows) {
                return Err(WorkloadError::Step {
                    file: file.to_owned(),
                    line: line_of_step(text, &workload.name, at),
                    workload: workload.name.clone(),
                    step: at,
                    opcode: format!("{:?}", step.opcode),
                    message,
                });
            }
        }
    }
    Ok(parsed)
}

/// Whether a step says what its opcode needs.
fn check(workload: &Workload, step: &Step, knows: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let needs = |present: bool, field: &str| match present {
        true => Ok(()),
        false => Err(format!("it needs `{field}`")),
    };
    match step.opcode {
        Opcode::CreateNodes | Opcode::CreateAny | Opcode::CreatePodGroups => {
            needs(step.template.is_some(), "template")?
        }
        Opcode::CreateNamespaces => needs(step.namespace_prefix.is_some(), "namespacePrefix")?,
        Opcode::CreatePods | Opcode::CreatePodSets => {
            needs(step.count.is_some(), "count")?;
            let template = step.template.is_some() || workload.default_pod.is_some();
            needs(template, "template` or the workload `defaultPod")?;
            if step.opcode == Opcode::CreatePodSets {
                needs(step.namespaces.is_some(), "namespaces")?;
                needs(step.namespace_prefix.is_some(), "namespacePrefix")?;
            }
            let pair = step.persistent_volume.is_some() == step.persistent_volume_claim.is_some();
            needs(
                pair,
                "persistentVolume` and `persistentVolumeClaim` together, or neither of them",
            )?;
        }
        Opcode::Churn => {
            needs(!step.templates.is_empty(), "templates")?;
            needs(
                step.interval_milliseconds.is_some_and(|ms| ms > 0),
                "intervalMilliseconds` above 0",
            )?;
            needs(step.mode.is_some(), "mode")?;
        }
        Opcode::DeletePods => needs(step.namespace.is_some(), "namespace")?,
        Opcode::UpdateAny => {
            needs(step.template.is_some(), "template")?;
            needs(step.namespace.is_some(), "namespace")?;
            needs(step.count.is_some(), "count")?;
        }
        Opcode::Barrier | Opcode::StartCollectingMetrics | Opcode::StopCollectingMetrics => {}
    }
    let named = [
        &step.template,
        &step.persistent_volume,
        &step.persistent_volume_claim,
        &workload.default_pod,
    ];
    let names = named.into_iter().flatten().chain(&step.templates);
    for name in names {
        if !knows(name) {
            return Err(format!("there is no template `{name}`"));
        }
    }
    for case in &workload.cases {
        step.total(&case.params)
            .map_err(|error| format!("in case {}: {error}", case.name))?;
    }
    Ok(())
}

/// The line (from 1) on which a step begins: YAML's reader tells no places of what it read, so it is looked for.
fn line_of_step(text: &str, workload: &str, step: usize) -> usize {
    let lines = text.lines().enumerate();
    let mut steps = lines
        .skip_while(|(_, line)| line.trim_start_matches(['-', ' ']).trim_end() != format!("name: {workload}"))
        .filter(|(_, line)| line.contains("opcode:"));
    steps.nth(step).map_or(0, |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
workloads:
- name: A
  steps:
  - {opcode: createNodes, count: $nodes, template: node}
  - {opcode: createPods, count: 2, template: pod, collectMetrics: true}
  cases:
  - name: one
    params: {nodes: 3}
";

    fn known() -> Vec<String> {
        vec!["node".to_owned(), "pod".to_owned()]
    }

    #[test]
    fn sizes_are_sums_over_the_steps() {
        let file = read("a.yaml", GOOD, &known()).unwrap();
        let workload = &file.workloads[0];
        let sizes = workload.sizes(&workload.cases[0].params, &|_| BTreeMap::new()).unwrap();
        assert_eq!((sizes.nodes, sizes.init_pods, sizes.measured_pods), (3, 0, 2));
    }

    #[test]
    fn mistakes_are_told_with_file_and_line() {
        for (from, to, words) in [
            ("createPods", "createPodz", "a.yaml:5:"),
            ("createPods", "createPodz", "unknown variant `createPodz`"),
            (
                "count: 2, ",
                "",
                "a.yaml:5: workload A, step 1 (CreatePods): it needs `count`",
            ),
            (
                "template: pod",
                "template: pad",
                "a.yaml:5: workload A, step 1 (CreatePods): there is no template `pad`",
            ),
            (
                "$nodes",
                "$knots",
                "a.yaml:4: workload A, step 0 (CreateNodes): in case one: `$knots` names `knots`",
            ),
            ("collectMetrics", "collectMetric", "unknown field `collectMetric`"),
            ("  cases:", " cases:", "a.yaml:"),
        ] {
            let error = read("a.yaml", &GOOD.replace(from, to), &known())
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
