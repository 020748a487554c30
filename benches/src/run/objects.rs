//! Owns the making of API objects from templates: names, namespaces, labels that take turns, claims and volumes. Called by the
//! worlds of all depths. It must make the same objects for the same case, whatever the depth.

use super::CaseError;
use crate::catalog::Selected;
use crate::expression::Parameters;
use crate::template::Template;
use crate::workload::Step;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::scheduling::v1beta1 as scheduling;
use k8s_openapi::api::storage::v1 as storage;
use serde_json::{Value, json};
use std::sync::Arc;

/// Makes the objects of a case.
pub struct Maker<'a> {
    case: &'a Selected,
    /// `{count}` of the step and the case's parameters.
    parameters: Parameters,
}

/// The pods of one step in one namespace.
pub struct PodMaker<'a> {
    template: &'a Template,
    parameters: Parameters,
    step: usize,
    namespace: String,
    claims: bool,
    fixed: Option<Arc<core::Pod>>,
}

/// A pod that was made, without its name where many share the object.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its name.
    pub name: String,
    /// The object; pods whose template has no expression share it, so its name may be another's.
    pub shape: Arc<core::Pod>,
}

impl Made {
    /// The object with its own name, as the API would hand it out.
    pub fn object(&self, number: usize) -> core::Pod {
        let mut pod = (*self.shape).clone();
        pod.metadata.name = Some(self.name.clone());
        pod.metadata.uid = Some(format!("00000000-0000-4000-8000-{number:012x}"));
        pod
    }
}

impl<'a> Maker<'a> {
    /// The objects of a case.
    pub fn new(case: &'a Selected) -> Self {
        Self {
            case,
            parameters: case.parameters().clone(),
        }
    }

    /// A template by name. Names were checked when the file was read.
    pub fn template(&self, name: &str) -> &'a Template {
        &self.case.templates[name]
    }

    fn parameters_of(&self, index: u64, count: u64) -> Parameters {
        let mut parameters = self.parameters.clone();
        parameters.insert("count".to_owned(), i64::try_from(count).unwrap_or(i64::MAX));
        parameters.insert("index".to_owned(), i64::try_from(index).unwrap_or(i64::MAX));
        parameters
    }

    /// A rendered tree with a name.
    pub fn tree(&self, template: &Template, step: usize, index: u64, count: u64) -> Result<Value, CaseError> {
        let mut value = template.render(&self.parameters_of(index, count))?;
        name_tree(&mut value, step, index);
        Ok(value)
    }

    /// The node with a number of a step, as JSON: with its host name as label and its capacity as allocatable, Ready.
    pub fn node_tree(&self, step_at: usize, step: &Step, index: u64, count: u64) -> Result<Value, CaseError> {
        let template = self.template(step.template.as_deref().unwrap_or_default());
        let mut value = self.tree(template, step_at, index, count)?;
        value["apiVersion"] = json!("v1");
        value["kind"] = json!("Node");
        let name = value["metadata"]["name"].clone();
        value["metadata"]["labels"]["kubernetes.io/hostname"] = name;
        if let Some(label) = &step.label_nodes {
            let turn = index as usize % label.values.len().max(1);
            value["metadata"]["labels"][&label.key] = json!(label.values.get(turn));
        }
        if value["status"]["allocatable"].is_null() {
            value["status"]["allocatable"] = value["status"]["capacity"].clone();
        }
        value["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        Ok(value)
    }

    /// The same as an object.
    pub fn node(&self, step_at: usize, step: &Step, index: u64, count: u64) -> Result<core::Node, CaseError> {
        let template = self.template(step.template.as_deref().unwrap_or_default());
        Ok(template.read(self.node_tree(step_at, step, index, count)?, "Node")?)
    }

    /// What the drivers of a step's node can attach.
    pub fn csi_node(&self, step: &Step, node: &str) -> Option<storage::CSINode> {
        if step.csi_drivers.is_empty() {
            return None;
        }
        let drivers: Vec<Value> = step
            .csi_drivers
            .iter()
            .map(|(name, driver)| json!({"name": name, "nodeID": node, "allocatable": {"count": driver.count}}))
            .collect();
        let value = json!({"metadata": {"name": node}, "spec": {"drivers": drivers}});
        serde_json::from_value(value).ok()
    }

    /// A namespace.
    pub fn namespace_tree(&self, step: &Step, index: u64) -> Result<Value, CaseError> {
        let mut value = match &step.template {
            Some(name) => self.template(name).render(&self.parameters_of(index, 0))?,
            None => json!({"metadata": {}}),
        };
        value["apiVersion"] = json!("v1");
        value["kind"] = json!("Namespace");
        let prefix = step.namespace_prefix.as_deref().unwrap_or_default();
        value["metadata"]["name"] = json!(format!("{prefix}-{index}"));
        Ok(value)
    }

    /// The volume and the claim of a pod, bound to each other.
    pub fn volume(
        &self,
        step_at: usize,
        step: &Step,
        namespace: &str,
        index: u64,
    ) -> Result<Option<(core::PersistentVolume, core::PersistentVolumeClaim)>, CaseError> {
        let (Some(volume), Some(claim)) = (&step.persistent_volume, &step.persistent_volume_claim) else {
            return Ok(None);
        };
        let (volume, claim) = (self.template(volume), self.template(claim));
        let parameters = self.parameters_of(index, 0);
        let (volume_name, claim_name) = (format!("pv-{step_at}-{index}"), format!("pvc-{index}"));
        let mut tree = volume.render(&parameters)?;
        tree["metadata"]["name"] = json!(volume_name);
        tree["spec"]["claimRef"] = json!({"namespace": namespace, "name": claim_name});
        tree["status"] = json!({"phase": "Bound"});
        // A volume of its own: drivers tell volumes apart by these, not by the object's name.
        for handle in ["/spec/csi/volumeHandle", "/spec/awsElasticBlockStore/volumeID"] {
            if let Some(handle) = tree.pointer_mut(handle) {
                *handle = json!(volume_name);
            }
        }
        let volume = volume.read(tree, "PersistentVolume")?;
        let mut tree = claim.render(&parameters)?;
        tree["metadata"]["name"] = json!(claim_name);
        tree["metadata"]["namespace"] = json!(namespace);
        tree["spec"]["volumeName"] = json!(volume_name);
        tree["status"] = json!({"phase": "Bound"});
        Ok(Some((volume, claim.read(tree, "PersistentVolumeClaim")?)))
    }

    /// A pod group.
    pub fn group(
        &self,
        step_at: usize,
        step: &Step,
        namespace: &str,
        index: u64,
        count: u64,
    ) -> Result<scheduling::PodGroup, CaseError> {
        let template = self.template(step.template.as_deref().unwrap_or_default());
        let mut tree = self.tree(template, step_at, index, count)?;
        tree["metadata"]["namespace"] = json!(namespace);
        Ok(template.read(tree, "PodGroup")?)
    }

    /// The pods of a step in a namespace.
    pub fn pods(&self, step_at: usize, step: &Step, namespace: &str, count: u64) -> Result<PodMaker<'a>, CaseError> {
        let name = step.template.as_ref().or(self.case.workload.default_pod.as_ref());
        let template = self.template(name.map_or("", String::as_str));
        self.pods_of(
            template,
            step_at,
            step.persistent_volume_claim.is_some(),
            namespace,
            count,
        )
    }

    /// The pods of a template.
    pub fn pods_of(
        &self,
        template: &'a Template,
        step: usize,
        claims: bool,
        namespace: &str,
        count: u64,
    ) -> Result<PodMaker<'a>, CaseError> {
        let mut maker = PodMaker {
            template,
            parameters: self.parameters_of(0, count),
            step,
            namespace: namespace.to_owned(),
            claims,
            fixed: None,
        };
        if !template.varies() && !claims {
            maker.fixed = Some(Arc::new(maker.read(0)?));
        }
        Ok(maker)
    }
}

impl PodMaker<'_> {
    /// The pod with a number.
    pub fn make(&self, index: u64) -> Result<Made, CaseError> {
        if let Some(shape) = &self.fixed {
            let name = match self.template.value().pointer("/metadata/name").and_then(Value::as_str) {
                Some(name) => name.to_owned(),
                None => generated(self.prefix(), self.step, index),
            };
            return Ok(Made {
                name,
                shape: shape.clone(),
            });
        }
        let pod = self.read(index)?;
        Ok(Made {
            name: pod.metadata.name.clone().unwrap_or_default(),
            shape: Arc::new(pod),
        })
    }

    /// The pod with a number, as JSON.
    pub fn tree(&self, index: u64) -> Result<Value, CaseError> {
        let mut parameters = self.parameters.clone();
        parameters.insert("index".to_owned(), i64::try_from(index).unwrap_or(i64::MAX));
        let mut tree = self.template.render(&parameters)?;
        name_tree(&mut tree, self.step, index);
        tree["apiVersion"] = json!("v1");
        tree["kind"] = json!("Pod");
        tree["metadata"]["namespace"] = json!(self.namespace);
        if self.claims {
            let volume = json!({"name": "vol", "persistentVolumeClaim": {"claimName": format!("pvc-{index}")}});
            match tree["spec"]["volumes"].as_array_mut() {
                Some(volumes) => volumes.push(volume),
                None => tree["spec"]["volumes"] = json!([volume]),
            }
        }
        Ok(tree)
    }

    fn read(&self, index: u64) -> Result<core::Pod, CaseError> {
        Ok(self.template.read(self.tree(index)?, "Pod")?)
    }

    fn prefix(&self) -> &str {
        let prefix = self.template.value().pointer("/metadata/generateName");
        prefix.and_then(Value::as_str).unwrap_or("pod-")
    }
}

fn generated(prefix: &str, step: usize, index: u64) -> String {
    format!("{prefix}{step}-{index}")
}

/// Gives an object without a name one.
fn name_tree(value: &mut Value, step: usize, index: u64) {
    let metadata = &mut value["metadata"];
    if metadata["name"].is_null() {
        let prefix = metadata["generateName"].as_str().unwrap_or("object-").to_owned();
        metadata["name"] = json!(generated(&prefix, step, index));
    }
}
