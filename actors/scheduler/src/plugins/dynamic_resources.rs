//! DynamicResources (PreFilter, Filter, Reserve, PreBind): a pod goes where the devices of its ResourceClaims are, or where devices
//! can be allocated to them. Choosing a node allocates them; the allocation is part of the binding (`Binding::pre_bind`).
//!
//! Supported: ResourceSlices of one node, of selected nodes, of all nodes and by device; pools with generations; DeviceClasses;
//! selectors in CEL (see `devices::selector`); requests `exactly` and `firstAvailable`; `ExactCount` and `All`; `matchAttribute`
//! and `distinctAttribute`; device taints. A claim that asks for more is refused, and says for what: `adminAccess`, capacity
//! requests, derived attributes. Devices that consume shared counters, allow several allocations, have binding conditions or take
//! node resources are not allocated.
//!
//! Differs from kube-scheduler: no PostFilter that takes unused allocations back; nodes are not scored by the alternatives of
//! `firstAvailable`; extended resources that a DeviceClass stands for are not allocated; a search through combinations ends after
//! a number of steps rather than after a time.

use crate::cluster::{ClassId, Cluster, PodId};
use crate::decision::{ObjectPatch, PreBind};
use crate::devices::{Allocation, CONSUMERS_MAX, ClaimUse, Impossible};
use crate::diagnosis::Reason;
use crate::framework::{
    Assignment, ClusterEvent, Compiled, Context, EventKinds, Plugin, Reach, Reads, Reasons, Rule, Verdict,
};
use crate::intern::{Sym, Symbols};
use crate::node::Node;
use crate::pod::PodSignature;
use crate::selector::NodeSelectorTerm;
use serde_json::{Value, json};
use std::sync::Arc;

/// Protects an allocated claim from deletion.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// The plugin.
pub struct DynamicResources;

struct Claims {
    /// The nodes of each claim that has its devices: a node, or terms.
    allocated: Vec<(Option<Sym>, Option<Vec<NodeSelectorTerm>>)>,
    /// Claims that have none.
    waiting: Vec<Sym>,
}

fn short(symbols: &Symbols, claim: Sym) -> String {
    let name = symbols.text(claim);
    name.split_once('/').map_or(String::new(), |(_, name)| name.to_owned())
}

/// Looks the claims of a pod up; the error is PreFilter's message.
fn claims(cluster: &mut Cluster, signature: &PodSignature) -> Result<Claims, String> {
    let mut read = Claims {
        allocated: Vec::new(),
        waiting: Vec::new(),
    };
    for used in &signature.device_claims {
        let name = match used {
            ClaimUse::Named(name) => *name,
            ClaimUse::Awaited(claim) => {
                let claim = cluster.symbols.text(*claim);
                return Err(format!("the resourceclaim for {claim:?} of the pod was not created"));
            }
        };
        cluster.prepare_claim(name);
        let (devices, symbols) = (cluster.devices(), &cluster.symbols);
        let Some(claim) = devices.claim(name) else {
            return Err(format!("resourceclaim \"{}\" not found", short(symbols, name)));
        };
        if claim.terminating {
            return Err(format!("resourceclaim \"{}\" is being deleted", short(symbols, name)));
        }
        if claim
            .reserved_for
            .as_array()
            .is_some_and(|consumers| consumers.len() >= CONSUMERS_MAX)
        {
            return Err(format!("resourceclaim \"{}\" in use", short(symbols, name)));
        }
        match devices.allocation(name) {
            Some(allocation) => read.allocated.push((allocation.on, allocation.nodes.clone())),
            None => {
                if let Some(words) = devices.objection(symbols, claim) {
                    return Err(words);
                }
                if !read.waiting.contains(&name) {
                    read.waiting.push(name);
                }
            }
        }
    }
    Ok(read)
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn reads(&self, _cluster: &Cluster, _signature: &PodSignature) -> Reads {
        Reads::NOTHING
    }

    fn compile(&self, cluster: &mut Cluster, _class: ClassId, signature: &PodSignature) -> Compiled {
        if signature.device_claims.is_empty() {
            return Compiled::Skip;
        }
        match claims(cluster, signature) {
            Ok(claims) => Compiled::Rule(Box::new(claims)),
            Err(message) => Compiled::Refuse(message),
        }
    }

    fn hears(&self) -> EventKinds {
        EventKinds::DEVICES.and(EventKinds::NODES).and(EventKinds::POD_LIFTED)
    }

    fn may_help(&self, _cluster: &Cluster, event: &ClusterEvent<'_>, _signature: &PodSignature) -> bool {
        match event {
            ClusterEvent::NodeChanged { before, node } => before.labels != node.reading.labels,
            // What was allocated for a pod that is not bound after all is free again.
            ClusterEvent::PodLifted(pod) => !pod.device_claims.is_empty(),
            _ => true,
        }
    }

    fn reserve(&self, cluster: &mut Cluster, assignment: Assignment) -> Result<(), String> {
        let signature = cluster.signature(assignment.pod).clone();
        if signature.device_claims.is_empty() {
            return Ok(());
        }
        let waiting = claims(cluster, &signature)?.waiting;
        let node = cluster.node(assignment.node);
        let found = cluster
            .devices()
            .allocate(&cluster.symbols, &waiting, node)
            .map_err(|why| words(&why))?;
        let pairs = waiting.into_iter().zip(found).collect();
        cluster.promise_devices(assignment.pod, pairs);
        Ok(())
    }

    fn unreserve(&self, cluster: &mut Cluster, pod: PodId) {
        cluster.release_devices(pod);
    }

    fn pre_bind(&self, cluster: &Cluster, assignment: Assignment) -> Result<Vec<PreBind>, String> {
        let signature = cluster.signature(assignment.pod);
        let mut steps = Vec::new();
        for used in &signature.device_claims {
            let ClaimUse::Named(name) = used else { continue };
            let full = cluster.symbols.text(*name).clone();
            let Some((namespace, short)) = full.split_once('/') else {
                continue;
            };
            let patch = reservation(cluster, assignment, *name);
            steps.push(PreBind::Patch(ObjectPatch {
                resource: "resourceclaims.resource.k8s.io".into(),
                namespace: namespace.into(),
                name: short.into(),
                patch,
            }));
        }
        Ok(steps)
    }
}

/// What is written to a claim: the pod as its consumer, and what was allocated for the pod.
fn reservation(cluster: &Cluster, assignment: Assignment, name: Sym) -> Value {
    let devices = cluster.devices();
    let pod = cluster.pod(assignment.pod);
    let claim = devices.claim(name);
    let mut consumers = claim
        .and_then(|claim| claim.reserved_for.as_array().cloned())
        .unwrap_or_default();
    if !consumers.iter().any(|consumer| consumer["uid"] == *pod.uid) {
        consumers.push(json!({"resource": "pods", "name": pod.key.name(), "uid": &*pod.uid}));
    }
    let mut patch = json!({"status": {"reservedFor": consumers}});
    if devices.promised_to(assignment.pod).contains(&name)
        && let Some(allocation) = devices.allocation(name)
    {
        patch["status"]["allocation"] = written(&cluster.symbols, allocation);
        let mut finalizers = claim.map_or(Vec::new(), |claim| claim.finalizers.clone());
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
            patch["metadata"] = json!({"finalizers": finalizers});
        }
    }
    patch
}

fn written(symbols: &Symbols, allocation: &Allocation) -> Value {
    let text = |sym: Sym| Value::from(&**symbols.text(sym));
    let results: Vec<Value> = allocation
        .devices
        .iter()
        .map(|(request, device)| {
            json!({"request": request, "driver": text(device.driver), "pool": text(device.pool),
                "device": text(device.device)})
        })
        .collect();
    let mut written = json!({"devices": {"results": results}});
    if let Some(node) = allocation.on {
        written["nodeSelector"] = json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": [text(node)]}]}]});
    } else if let Some(terms) = &allocation.nodes {
        let terms: Vec<Value> = terms.iter().map(|term| term.written(symbols)).collect();
        written["nodeSelector"] = json!({"nodeSelectorTerms": terms});
    }
    written
}

fn words(why: &Impossible) -> String {
    match why {
        Impossible::NoDevices => "cannot allocate all claims".to_owned(),
        Impossible::Selector(error) => format!("cannot allocate all claims: a device selector failed: {error}"),
        Impossible::TooManySteps => "cannot allocate all claims: too many combinations of devices".to_owned(),
    }
}

impl Rule for Claims {
    fn filters(&self) -> Reach {
        Reach::Node
    }

    fn filter_node(&self, cx: &Context<'_>, node: &Node, reasons: &mut Reasons) -> Verdict {
        let symbols = &cx.cluster.symbols;
        let reaches = |(on, terms): &(Option<Sym>, Option<Vec<NodeSelectorTerm>>)| {
            on.is_none_or(|name| name == node.name)
                && terms.as_ref().is_none_or(|terms| {
                    terms
                        .iter()
                        .any(|term| term.matches(symbols, node.name, &node.reading.labels))
                })
        };
        if !self.allocated.iter().all(reaches) {
            reasons.say(Reason::Text("resourceclaim not available on the node"));
            return Verdict::NeverFits;
        }
        match cx.cluster.devices().allocate(symbols, &self.waiting, node) {
            Ok(_) => Verdict::Fits,
            Err(Impossible::NoDevices) => {
                reasons.say(Reason::Text("cannot allocate all claims"));
                Verdict::Refused
            }
            Err(why) => {
                reasons.say(Reason::Made(Arc::from(words(&why))));
                Verdict::NeverFits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::decision::{Decision, PreBind};
    use crate::pod::PodKey;
    use crate::testing::{Bench, Object, node, pod};
    use serde_json::{Value, json};

    const DRIVER: &str = "gpu.example.com";

    fn class(bench: &mut Bench, name: &str, expression: &str) {
        let class = json!({"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": expression}}]}});
        bench
            .scheduler
            .upsert_device_class(&serde_json::from_value(class).expect("well-formed"));
    }

    fn slice(bench: &mut Bench, name: &str, over: Value, devices: Value) {
        let mut slice = json!({"metadata": {"name": name}, "spec": {"driver": DRIVER,
            "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}, "devices": devices}});
        let over = over.as_object().expect("an object").clone();
        over.into_iter().for_each(|(key, value)| slice["spec"][key] = value);
        bench
            .scheduler
            .upsert_resource_slice(&serde_json::from_value(slice).expect("well-formed"));
    }

    fn gpu(name: &str, model: &str, numa: i64) -> Value {
        json!({"name": name, "attributes": {"model": {"string": model}, "numa": {"int": numa}},
            "capacity": {"memory": {"value": "40Gi"}}})
    }

    /// n1 has two devices of model a, n2 one of each model.
    fn two_nodes() -> Bench {
        let mut bench = Bench::new();
        bench.node(node("n1"));
        bench.node(node("n2"));
        class(&mut bench, "gpu", &format!("device.driver == '{DRIVER}'"));
        slice(
            &mut bench,
            "s1",
            json!({"nodeName": "n1"}),
            json!([gpu("d0", "a", 0), gpu("d1", "a", 1)]),
        );
        slice(
            &mut bench,
            "s2",
            json!({"nodeName": "n2"}),
            json!([gpu("d0", "a", 0), gpu("d1", "b", 0)]),
        );
        bench
    }

    fn claim_object(name: &str, devices: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"devices": devices}})
    }

    fn claim(bench: &mut Bench, name: &str, devices: Value) {
        let claim = claim_object(name, devices);
        bench
            .scheduler
            .upsert_resource_claim(&serde_json::from_value(claim).expect("well-formed"));
    }

    fn request(over: Value) -> Value {
        let mut exactly = json!({"deviceClassName": "gpu"});
        let over = over.as_object().expect("an object").clone();
        over.into_iter().for_each(|(key, value)| exactly[key] = value);
        json!({"requests": [{"name": "r", "exactly": exactly}]})
    }

    fn selecting(expression: &str) -> Value {
        request(json!({"selectors": [{"cel": {"expression": expression}}]}))
    }

    fn using(name: &str, claims: &[&str]) -> Object {
        let claims: Vec<Value> = claims
            .iter()
            .map(|claim| json!({"name": claim, "resourceClaimName": claim}))
            .collect();
        pod(name).merge(json!({"metadata": {"uid": name}, "spec": {"resourceClaims": claims}}))
    }

    /// The node and the devices that were allocated.
    fn allocated(decision: Decision) -> (String, Vec<String>) {
        let binding = match decision {
            Decision::Bind(binding) => binding,
            Decision::Unschedulable(why) => panic!("{}", why.message()),
        };
        let mut devices = Vec::new();
        for step in &binding.pre_bind {
            let PreBind::Patch(patch) = step else {
                panic!("{step:?}")
            };
            assert_eq!(&*patch.resource, "resourceclaims.resource.k8s.io");
            let results = patch.patch["status"]["allocation"]["devices"]["results"]
                .as_array()
                .cloned();
            for result in results.unwrap_or_default() {
                devices.push(format!(
                    "{}/{}",
                    result["pool"].as_str().unwrap(),
                    result["device"].as_str().unwrap()
                ));
            }
        }
        (binding.node.to_string(), devices)
    }

    #[test]
    fn a_pod_goes_where_a_device_that_is_selected_is_free() {
        let mut bench = two_nodes();
        claim(
            &mut bench,
            "c",
            selecting(&format!("device.attributes['{DRIVER}'].model == 'b'")),
        );
        assert_eq!(
            allocated(bench.decide_for(using("p", &["c"]))),
            ("n2".into(), vec!["s2/d1".into()])
        );
        // The only one is taken.
        claim(
            &mut bench,
            "c2",
            selecting(&format!("device.attributes['{DRIVER}'].model == 'b'")),
        );
        let message = bench.why_not(using("q", &["c2"]));
        assert!(
            message.starts_with("0/2 nodes are available: 2 cannot allocate all claims."),
            "{message}"
        );
        // The binding is refused: it is free again, and the other pod is woken by that.
        bench.pod(using("q", &["c2"]));
        assert!(matches!(&bench.decide()[..], [Decision::Unschedulable(_)]));
        bench.scheduler.forget(&PodKey::new("default", "p"), bench.now_ms);
        bench.remove_pod("p");
        assert!(matches!(&bench.decide()[..], [Decision::Bind(binding)] if binding.pod.name() == "q"));
    }

    #[test]
    fn every_device_is_allocated_once_until_all_are_gone() {
        let mut bench = two_nodes();
        let mut seen = std::collections::BTreeSet::new();
        for at in 0..4 {
            claim(&mut bench, &format!("c{at}"), request(json!({})));
            let (_, devices) = allocated(bench.decide_for(using(&format!("p{at}"), &[&format!("c{at}")])));
            assert_eq!(devices.len(), 1);
            assert!(seen.insert(devices[0].clone()), "{devices:?} twice");
        }
        claim(&mut bench, "c4", request(json!({})));
        assert!(!bench.fits(using("p4", &["c4"])));
        // A claim goes, and its device is free.
        bench.scheduler.remove_resource_claim("default", "c0");
        assert!(bench.fits(using("p4", &["c4"])));
    }

    #[test]
    fn counts_and_modes_decide_how_many() {
        for (over, want) in [
            (
                json!({"count": 2, "selectors": [{"cel": {"expression": format!("device.attributes['{DRIVER}'].model == 'a'")}}]}),
                Some(("n1", 2)),
            ),
            (json!({"count": 3}), None),
            (
                json!({"allocationMode": "All", "selectors": [{"cel": {"expression": format!("device.attributes['{DRIVER}'].numa == 1")}}]}),
                Some(("n1", 1)),
            ),
            (
                json!({"allocationMode": "All", "selectors": [{"cel": {"expression": "false"}}]}),
                None,
            ),
        ] {
            let mut bench = two_nodes();
            claim(&mut bench, "c", request(over.clone()));
            match want {
                Some((node, count)) => {
                    let (on, devices) = allocated(bench.decide_for(using("p", &["c"])));
                    assert_eq!((on.as_str(), devices.len()), (node, count), "{over}");
                }
                None => assert!(!bench.fits(using("p", &["c"])), "{over}"),
            }
        }
        // All means all: not where one is in use.
        let mut bench = two_nodes();
        claim(
            &mut bench,
            "one",
            selecting(&format!("device.attributes['{DRIVER}'].numa == 1")),
        );
        assert_eq!(allocated(bench.decide_for(using("p", &["one"]))).0, "n1");
        claim(&mut bench, "all", request(json!({"allocationMode": "All"})));
        assert_eq!(allocated(bench.decide_for(using("q", &["all"]))).0, "n2");
    }

    #[test]
    fn constraints_hold_between_the_devices_of_a_claim() {
        let model = format!("{DRIVER}/model");
        for (constraint, node) in [
            (json!({"matchAttribute": model}), "n1"),
            (json!({"distinctAttribute": model}), "n2"),
        ] {
            let mut bench = two_nodes();
            let mut devices = request(json!({"count": 2}));
            devices["constraints"] = json!([constraint]);
            claim(&mut bench, "c", devices);
            assert_eq!(allocated(bench.decide_for(using("p", &["c"]))).0, node, "{constraint}");
        }
    }

    #[test]
    fn the_first_alternative_that_can_be_met_is_taken() {
        let model = |name: &str, model: &str| {
            json!({"name": name, "deviceClassName": "gpu", "selectors":
            [{"cel": {"expression": format!("device.attributes['{DRIVER}'].model == '{model}'")}}]})
        };
        let mut bench = two_nodes();
        claim(
            &mut bench,
            "c",
            json!({"requests": [{"name": "r", "firstAvailable": [model("best", "z"), model("next", "b")]}]}),
        );
        let Decision::Bind(binding) = bench.decide_for(using("p", &["c"])) else {
            panic!("it fits")
        };
        let PreBind::Patch(patch) = &binding.pre_bind[0] else {
            panic!("{binding:?}")
        };
        let result = &patch.patch["status"]["allocation"]["devices"]["results"][0];
        assert_eq!(
            (&result["request"], &result["device"]),
            (&json!("r/next"), &json!("d1"))
        );
        assert_eq!(
            patch.patch["status"]["reservedFor"],
            json!([{"resource": "pods", "name": "p", "uid": "p"}])
        );
        assert_eq!(
            patch.patch["metadata"]["finalizers"],
            json!(["resource.kubernetes.io/delete-protection"])
        );
        assert_eq!(
            patch.patch["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"],
            json!(["n2"])
        );
    }

    #[test]
    fn a_claim_that_is_allocated_holds_its_pods_to_its_nodes() {
        let mut bench = two_nodes();
        let mut object = claim_object("c", request(json!({})));
        object["status"] = json!({"allocation": {"devices": {"results": [{"request": "r", "driver": DRIVER, "pool": "s2",
            "device": "d0"}]}, "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name",
            "operator": "In", "values": ["n2"]}]}]}}});
        bench
            .scheduler
            .upsert_resource_claim(&serde_json::from_value(object).expect("well-formed"));
        assert_eq!(bench.place(using("p", &["c"])), "n2");
        let elsewhere = using("q", &["c"]).merge(json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "n1"}}}));
        let message = bench.why_not(elsewhere);
        assert!(
            message.contains("1 node(s) didn't match Pod's node affinity/selector"),
            "{message}"
        );
        // Its device is not free for others.
        claim(&mut bench, "all", request(json!({"allocationMode": "All"})));
        assert_eq!(allocated(bench.decide_for(using("r", &["all"]))).0, "n1");
    }

    #[test]
    fn a_second_pod_shares_what_was_decided_for_the_first() {
        let mut bench = two_nodes();
        claim(
            &mut bench,
            "c",
            selecting(&format!("device.attributes['{DRIVER}'].model == 'b'")),
        );
        assert_eq!(bench.place(using("p", &["c"])), "n2");
        let (on, devices) = allocated(bench.decide_for(using("q", &["c"])));
        assert_eq!((on.as_str(), devices.len()), ("n2", 0));
    }

    #[test]
    fn claims_that_cannot_be_used_refuse_the_pod_in_words() {
        let mut bench = two_nodes();
        let start = |bench: &mut Bench| bench.why_not(using("p", &["c"]));
        assert!(start(&mut bench).starts_with("0/2 nodes are available: resourceclaim \"c\" not found."));
        for (devices, words) in [
            (
                json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "tpu"}}]}),
                "request r: device class tpu does not exist",
            ),
            (
                request(json!({"adminAccess": true})),
                "resourceclaim asks for what is not supported here: adminAccess",
            ),
            (
                request(json!({"capacity": {"requests": {"memory": "1Gi"}}})),
                "not supported here: a part of a device's capacity",
            ),
            (
                selecting("device.driver =="),
                "request r: selector \"device.driver ==\"",
            ),
        ] {
            claim(&mut bench, "c", devices);
            let message = start(&mut bench);
            assert!(message.contains(words), "{message}");
        }
        claim(
            &mut bench,
            "c",
            selecting(&format!("device.attributes['{DRIVER}'].absent == 1")),
        );
        let message = start(&mut bench);
        assert!(
            message.contains("2 cannot allocate all claims: a device selector failed: "),
            "{message}"
        );
        let template =
            pod("p").merge(json!({"spec": {"resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]}}));
        let message = bench.why_not(template.clone());
        assert!(
            message.contains("the resourceclaim for \"c\" of the pod was not created"),
            "{message}"
        );
        // The claim is made, and the pod's status names it.
        claim(&mut bench, "p-c-x", request(json!({})));
        let named =
            template.merge(json!({"status": {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "p-c-x"}]}}));
        assert!(bench.fits(named));
    }

    #[test]
    fn tainted_and_unsupported_devices_are_left_alone() {
        let taint = json!([{"key": "broken", "value": "yes", "effect": "NoSchedule"}]);
        for (over, tolerations, fits) in [
            (json!({"taints": taint}), json!([]), false),
            (
                json!({"taints": taint}),
                json!([{"key": "broken", "operator": "Exists"}]),
                true,
            ),
            (
                json!({"consumesCounters": [{"counterSet": "c", "counters": {}}]}),
                json!([]),
                false,
            ),
            (json!({"allowMultipleAllocations": true}), json!([]), false),
        ] {
            let mut bench = Bench::new();
            bench.node(node("n1"));
            class(&mut bench, "gpu", "true");
            let mut device = gpu("d0", "a", 0);
            over.as_object()
                .expect("an object")
                .iter()
                .for_each(|(key, value)| device[key] = value.clone());
            slice(&mut bench, "s", json!({"nodeName": "n1"}), json!([device]));
            claim(&mut bench, "c", request(json!({"tolerations": tolerations})));
            assert_eq!(bench.fits(using("p", &["c"])), fits, "{over}");
        }
    }

    #[test]
    fn devices_of_several_nodes_and_of_incomplete_pools() {
        let mut bench = Bench::new();
        for (name, zone) in [("a1", "a"), ("b1", "b")] {
            bench.node(node(name).merge(json!({"metadata": {"labels": {"zone": zone}}})));
        }
        class(&mut bench, "gpu", "true");
        let in_b = json!({"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["b"]}]}]}});
        slice(&mut bench, "shared", in_b, json!([gpu("d0", "a", 0)]));
        claim(&mut bench, "c", request(json!({})));
        let Decision::Bind(binding) = bench.decide_for(using("p", &["c"])) else {
            panic!("it fits")
        };
        assert_eq!(&*binding.node, "b1");
        let PreBind::Patch(patch) = &binding.pre_bind[0] else {
            panic!("{binding:?}")
        };
        assert_eq!(
            patch.patch["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"][0]["matchExpressions"][0],
            json!({"key": "zone", "operator": "In", "values": ["b"]})
        );
        // A pool of two slices of which one is there, and then an older generation.
        claim(&mut bench, "c2", request(json!({})));
        let pool = |generation: i64, count: i64| {
            json!({"allNodes": true, "pool": {"name": "net", "generation": generation,
            "resourceSliceCount": count}})
        };
        slice(&mut bench, "net-1", pool(2, 2), json!([gpu("n0", "a", 0)]));
        assert!(!bench.fits(using("q", &["c2"])));
        slice(&mut bench, "net-2", pool(1, 2), json!([gpu("n1", "a", 0)]));
        assert!(!bench.fits(using("q", &["c2"])));
        slice(&mut bench, "net-2", pool(2, 2), json!([gpu("n1", "a", 0)]));
        assert!(bench.fits(using("q", &["c2"])));
    }

    #[test]
    fn a_pod_that_waits_for_devices_is_woken_when_they_come() {
        let mut bench = Bench::new();
        bench.node(node("n1"));
        class(&mut bench, "gpu", "true");
        claim(&mut bench, "c", request(json!({})));
        assert!(matches!(
            bench.decide_for(using("p", &["c"])),
            Decision::Unschedulable(_)
        ));
        slice(&mut bench, "s", json!({"nodeName": "n1"}), json!([gpu("d0", "a", 0)]));
        assert!(matches!(&bench.decide()[..], [Decision::Bind(_)]));
    }
}
