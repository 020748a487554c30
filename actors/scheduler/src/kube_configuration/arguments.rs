//! Owns the arguments of this crate's plugins (`pluginConfig`), in Kubernetes' format and with its defaults and limits. Called by
//! the reading of a configuration. It must refuse arguments that a plugin would not obey.

use super::Factory;
use crate::framework::Plugin;
use crate::plugins::default_binder::DefaultBinder;
use crate::plugins::default_preemption::DefaultPreemption;
use crate::plugins::dynamic_resources::DynamicResources;
use crate::plugins::image_locality::ImageLocality;
use crate::plugins::inter_pod_affinity::InterPodAffinity;
use crate::plugins::node_affinity::NodeAffinity;
use crate::plugins::node_name::NodeName;
use crate::plugins::node_ports::NodePorts;
use crate::plugins::node_resources_balanced_allocation::NodeResourcesBalancedAllocation;
use crate::plugins::node_resources_fit::{NodeResourcesFit, ResourceWeight, ScoringStrategy, cpu_and_memory};
use crate::plugins::node_unschedulable::NodeUnschedulable;
use crate::plugins::node_volume_limits::NodeVolumeLimits;
use crate::plugins::pod_topology_spread::{DefaultConstraints, PodTopologySpread};
use crate::plugins::priority_sort::PrioritySort;
use crate::plugins::scheduling_gates::SchedulingGates;
use crate::plugins::taint_toleration::TaintToleration;
use crate::plugins::volume_binding::VolumeBinding;
use crate::plugins::volume_restrictions::VolumeRestrictions;
use crate::plugins::volume_zone::VolumeZone;
use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

type Made = Result<Arc<dyn Plugin>, String>;

/// A factory for each plugin of this crate.
pub(super) fn factories() -> BTreeMap<String, Factory> {
    let mut all: BTreeMap<String, Factory> = BTreeMap::new();
    let mut add = |name: &str, factory: fn(&Value) -> Made| {
        all.insert(name.to_owned(), Arc::new(factory));
    };
    add("DefaultBinder", |given| plain(given, DefaultBinder));
    add("DefaultPreemption", default_preemption);
    add("DynamicResources", dynamic_resources);
    add("ImageLocality", |given| plain(given, ImageLocality));
    add("InterPodAffinity", inter_pod_affinity);
    add("NodeAffinity", node_affinity);
    add("NodeName", |given| plain(given, NodeName));
    add("NodePorts", |given| plain(given, NodePorts));
    add("NodeResourcesBalancedAllocation", balanced_allocation);
    add("NodeResourcesFit", node_resources_fit);
    add("NodeUnschedulable", |given| plain(given, NodeUnschedulable));
    add("NodeVolumeLimits", |given| plain(given, NodeVolumeLimits));
    add("PodTopologySpread", pod_topology_spread);
    add("PrioritySort", |given| plain(given, PrioritySort));
    add("SchedulingGates", |given| plain(given, SchedulingGates));
    add("TaintToleration", |given| plain(given, TaintToleration));
    add("VolumeBinding", volume_binding);
    add("VolumeRestrictions", |given| plain(given, VolumeRestrictions));
    add("VolumeZone", |given| plain(given, VolumeZone));
    all
}

/// A plugin without arguments.
fn plain(given: &Value, plugin: impl Plugin + 'static) -> Made {
    match given {
        Value::Null => Ok(Arc::new(plugin)),
        other => Err(format!("it takes no arguments, and is given {other}")),
    }
}

/// Reads arguments without their `apiVersion` and `kind`; none at all are the defaults.
fn read<T: DeserializeOwned + Default>(given: &Value) -> Result<T, String> {
    let mut given = given.clone();
    match &mut given {
        Value::Null => return Ok(T::default()),
        Value::Object(fields) => {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
        _ => {}
    }
    serde_json::from_value(given).map_err(|error| error.to_string())
}

fn within(what: &str, value: i64, least: i64, greatest: i64) -> Result<i64, String> {
    if (least..=greatest).contains(&value) {
        return Ok(value);
    }
    Err(format!("{what} must be from {least} to {greatest}, not {value}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    #[serde(default)]
    weight: i64,
}

fn resources(given: Option<Vec<ResourceSpec>>) -> Result<Vec<ResourceWeight>, String> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(cpu_and_memory());
    };
    let read = given.into_iter().map(|resource| {
        // Absent is 1, as in Kubernetes.
        let weight = if resource.weight == 0 { 1 } else { resource.weight };
        Ok(ResourceWeight {
            weight: within(&format!("the weight of {}", resource.name), weight, 1, 100)?,
            name: resource.name,
        })
    });
    read.collect()
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FitArguments {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<StrategySpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StrategySpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    resources: Option<Vec<ResourceSpec>>,
    requested_to_capacity_ratio: Option<RatioSpec>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RatioSpec {
    shape: Vec<ShapePoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ShapePoint {
    utilization: i64,
    score: i64,
}

fn node_resources_fit(given: &Value) -> Made {
    let read: FitArguments = read(given)?;
    if let Some(group) = read.ignored_resource_groups.iter().find(|group| group.contains('/')) {
        return Err(format!(
            "ignoredResourceGroups: {group:?} is not a group: it has a slash"
        ));
    }
    let strategy = match read.scoring_strategy {
        None => ScoringStrategy::LeastAllocated(cpu_and_memory()),
        Some(spec) => strategy(spec)?,
    };
    Ok(Arc::new(NodeResourcesFit {
        strategy,
        ignored_resources: read.ignored_resources,
        ignored_resource_groups: read.ignored_resource_groups,
    }))
}

fn strategy(spec: StrategySpec) -> Result<ScoringStrategy, String> {
    let resources = resources(spec.resources)?;
    match spec.kind.as_deref().unwrap_or("LeastAllocated") {
        "LeastAllocated" => Ok(ScoringStrategy::LeastAllocated(resources)),
        "MostAllocated" => Ok(ScoringStrategy::MostAllocated(resources)),
        "RequestedToCapacityRatio" => {
            let points = spec.requested_to_capacity_ratio.unwrap_or_default().shape;
            if points.is_empty() {
                return Err("requestedToCapacityRatio.shape needs a point".to_owned());
            }
            let mut shape: Vec<(i64, i64)> = Vec::new();
            for point in points {
                let utilization = within("a point's utilization", point.utilization, 0, 100)?;
                if shape.last().is_some_and(|(before, _)| *before >= utilization) {
                    return Err("the points of shape must have ascending utilization".to_owned());
                }
                shape.push((utilization, within("a point's score", point.score, 0, 10)?));
            }
            Ok(ScoringStrategy::RequestedToCapacityRatio { shape, resources })
        }
        other => Err(format!("there is no scoringStrategy of type {other:?}")),
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct BalancedArguments {
    resources: Option<Vec<ResourceSpec>>,
}

fn balanced_allocation(given: &Value) -> Made {
    let read: BalancedArguments = read(given)?;
    let resources = resources(read.resources)?;
    if let Some(resource) = resources.iter().find(|resource| resource.weight != 1) {
        return Err(format!("the weight of {} must be 1", resource.name));
    }
    Ok(Arc::new(NodeResourcesBalancedAllocation { resources }))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct InterPodAffinityArguments {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: bool,
}

fn inter_pod_affinity(given: &Value) -> Made {
    let read: InterPodAffinityArguments = read(given)?;
    let weight = read.hard_pod_affinity_weight.unwrap_or(1);
    Ok(Arc::new(InterPodAffinity {
        hard_pod_affinity_weight: within("hardPodAffinityWeight", weight, 0, 100)?,
        ignore_preferred_terms_of_existing_pods: read.ignore_preferred_terms_of_existing_pods,
    }))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NodeAffinityArguments {
    added_affinity: Option<core::NodeAffinity>,
}

fn node_affinity(given: &Value) -> Made {
    let read: NodeAffinityArguments = read(given)?;
    Ok(Arc::new(NodeAffinity {
        added: read.added_affinity,
    }))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SpreadArguments {
    default_constraints: Vec<core::TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

fn pod_topology_spread(given: &Value) -> Made {
    let read: SpreadArguments = read(given)?;
    let defaults = match read.defaulting_type.as_deref().unwrap_or("System") {
        "System" if read.default_constraints.is_empty() => DefaultConstraints::System,
        "System" => return Err("defaultConstraints need defaultingType List".to_owned()),
        "List" => DefaultConstraints::List(read.default_constraints),
        other => return Err(format!("there is no defaultingType {other:?}")),
    };
    if let DefaultConstraints::List(constraints) = &defaults {
        for constraint in constraints {
            if constraint.label_selector.is_some() {
                return Err("a default constraint has no labelSelector: it comes from the pod's Services".to_owned());
            }
            if constraint.max_skew < 1 || constraint.topology_key.is_empty() {
                return Err("a default constraint needs a topologyKey and a maxSkew of 1 or more".to_owned());
            }
            if !matches!(
                constraint.when_unsatisfiable.as_str(),
                "DoNotSchedule" | "ScheduleAnyway"
            ) {
                let found = &constraint.when_unsatisfiable;
                return Err(format!(
                    "whenUnsatisfiable is DoNotSchedule or ScheduleAnyway, not {found:?}"
                ));
            }
        }
    }
    Ok(Arc::new(PodTopologySpread { defaults }))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PreemptionArguments {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

fn default_preemption(given: &Value) -> Made {
    let read: PreemptionArguments = read(given)?;
    let percentage = read.min_candidate_nodes_percentage.unwrap_or(10);
    let absolute = read.min_candidate_nodes_absolute.unwrap_or(100);
    within("minCandidateNodesPercentage", percentage, 0, 100)?;
    within("minCandidateNodesAbsolute", absolute, 0, i64::from(i32::MAX))?;
    if percentage == 0 && absolute == 0 {
        return Err("minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be 0".to_owned());
    }
    Ok(Arc::new(DefaultPreemption {
        candidate_nodes_percentage_min: usize::try_from(percentage).unwrap_or(0),
        candidate_nodes_min: usize::try_from(absolute).unwrap_or(0),
    }))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code)] // How long volumes are waited for is up to whoever carries the binding out.
struct VolumeBindingArguments {
    bind_timeout_seconds: Option<i64>,
    shape: Option<Value>,
}

fn volume_binding(given: &Value) -> Made {
    let read: VolumeBindingArguments = read(given)?;
    if read.shape.is_some() {
        return Err("shape: nodes are not scored by storage capacity".to_owned());
    }
    Ok(Arc::new(VolumeBinding))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(dead_code)] // The search for devices ends after a number of steps, not after a time.
struct DynamicResourcesArguments {
    filter_timeout: Option<String>,
}

fn dynamic_resources(given: &Value) -> Made {
    read::<DynamicResourcesArguments>(given)?;
    Ok(Arc::new(DynamicResources))
}
