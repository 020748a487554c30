//! Tables for what the scheduler's desk decides to write.

use super::*;
use crate::ownership::tests::stored;
use protocol::store::Precondition;
use scheduler::ObjectPatch;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn node(name: &str, cpu: &str) -> (Key, Arc<Object>) {
    let value = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    (Key::new("nodes", "", name), stored(value, 1))
}

fn pod(name: &str, cpu: &str, more: Value) -> (Key, Arc<Object>) {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]},
    });
    for (field, part) in more.as_object().unwrap() {
        value["spec"][field] = part.clone();
    }
    (Key::new("pods", "default", name), stored(value, 2))
}

fn desk(objects: &[(Key, Arc<Object>)]) -> Desk {
    let mut desk = Desk::new(SchedulerConfiguration::default());
    for (key, object) in objects {
        desk.observe(key, Some(object)).unwrap();
    }
    desk
}

#[test]
fn a_pod_that_fits_is_bound_once_with_its_condition() {
    let mut desk = desk(&[node("n1", "4"), pod("web", "1", json!({}))]);
    let round = desk.round(NOW, 10);
    let Write::Put { draft, .. } = &round.bindings[0].writes[0] else {
        panic!()
    };
    let value = draft.preview().value().unwrap();
    assert_eq!(value["spec"]["nodeName"], "n1");
    assert_eq!(value["status"]["conditions"][0]["status"], "True");
    assert_eq!(
        round.bindings[0].placed[0].note().message,
        "Successfully assigned default/web to n1"
    );
    assert!(
        desk.round(NOW, 10).bindings.is_empty(),
        "it is assumed until the store says otherwise"
    );
}

#[test]
fn a_pod_that_fits_nowhere_is_told_why_and_told_only_once() {
    let (key, object) = pod("big", "64", json!({}));
    let mut desk = desk(&[node("n1", "4"), (key.clone(), object)]);
    let round = desk.round(NOW, 10);
    let (intent, notes) = &round.conditions[0];
    let Intent::Update { value, .. } = intent else { panic!() };
    let condition = &value["status"]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("Unschedulable"))
    );
    assert!(
        condition["message"]
            .as_str()
            .unwrap()
            .starts_with("0/1 nodes are available: 1 Insufficient cpu."),
        "{condition}"
    );
    assert_eq!(notes[0].reason, "FailedScheduling");
    let told = stored(value.clone(), 9);
    desk.observe(&key, Some(&told)).unwrap();
    desk.observe(&Key::new("nodes", "", "n2"), Some(&node("n2", "4").1))
        .unwrap();
    for later in 1..20 {
        let round = desk.round(NOW.plus_ms(later * 60_000), 10);
        let repeated = round.conditions.iter().any(|(intent, _)| matches!(intent, Intent::Update { value: again, .. } if again["status"] == told.value().unwrap()["status"]));
        assert!(!repeated, "the same words are not written again");
    }
}

#[test]
fn a_gated_pod_is_not_scheduled_and_says_so() {
    let mut desk = desk(&[
        node("n1", "4"),
        pod("held", "1", json!({"schedulingGates": [{"name": "x"}]})),
    ]);
    let round = desk.round(NOW, 10);
    assert!(round.bindings.is_empty());
    let Intent::Update { value, .. } = &round.conditions[0].0 else {
        panic!()
    };
    assert_eq!(value["status"]["conditions"][0]["reason"], "SchedulingGated");
}

#[test]
fn a_refused_binding_frees_the_node_and_the_pod_comes_back() {
    let mut desk = desk(&[node("n1", "1"), pod("a", "1", json!({}))]);
    let round = desk.round(NOW, 10);
    desk.refused(&round.bindings[0].pods, NOW);
    assert!(desk.next_wakeup().is_some());
    let round = desk.round(NOW.plus_ms(60_000), 10);
    assert_eq!(round.bindings.len(), 1);
}

/// What the store makes of a group's first write.
fn committed(round: &Round, revision: u64) -> (Key, Arc<Object>) {
    let Write::Put { key, draft, .. } = &round.bindings[0].writes[0] else {
        panic!("a binding is a put")
    };
    let object = draft.commit(protocol::Revision(revision), Some(protocol::Revision(2)));
    (key.clone(), Arc::new(object))
}

#[test]
fn a_binding_that_the_store_took_is_accounted_for_whether_it_comes_back_as_sent_or_changed() {
    for changed in [false, true] {
        let mut desk = desk(&[node("n1", "1"), pod("a", "1", json!({}))]);
        let (key, mut object) = committed(&desk.round(NOW, 10), 7);
        if changed {
            let mut value = object.value().unwrap();
            value["metadata"]["labels"] = json!({"new": "one"});
            object = stored(value, 8);
        }
        desk.observe(&key, Some(&object)).unwrap();
        assert!(desk.pending.is_empty());
        assert_eq!(desk.scheduler.node_of(&pod_key(&key)).map(|node| &**node), Some("n1"));
        let (next, waits) = pod("b", "1", json!({}));
        desk.observe(&next, Some(&waits)).unwrap();
        assert!(desk.round(NOW.plus_ms(60_000), 10).bindings.is_empty(), "n1 is full");
        desk.observe(&key, None).unwrap();
        let round = desk.round(NOW.plus_ms(120_000), 10);
        assert_eq!(round.bindings[0].pods, [next], "n1 is free again");
    }
}

#[test]
fn the_event_of_a_binding_that_was_refused_for_it_is_read_anew() {
    let mut desk = desk(&[node("n1", "1"), node("n2", "1"), pod("a", "1", json!({}))]);
    let (key, object) = committed(&desk.round(NOW, 10), 7);
    let ours = object.header.field("spec.nodeName").to_owned();
    desk.refused(std::slice::from_ref(&key), NOW);
    let theirs = if ours == "n1" { "n2" } else { "n1" };
    let mut value = object.value().unwrap();
    value["spec"]["nodeName"] = json!(theirs);
    desk.observe(&key, Some(&stored(value, 8))).unwrap();
    assert_eq!(desk.scheduler.node_of(&pod_key(&key)).map(|node| &**node), Some(theirs));
    assert!(!desk.has_work() && desk.pending.is_empty());
}

/// A plugin that marks the node and the pod.
struct Marks;

impl scheduler::framework::Plugin for Marks {
    fn name(&self) -> &'static str {
        "Marks"
    }

    fn pre_bind(
        &self,
        cluster: &scheduler::cluster::Cluster,
        assignment: scheduler::framework::Assignment,
    ) -> Result<Vec<PreBind>, String> {
        let node = cluster.symbols.text(cluster.node(assignment.node).name).clone();
        Ok(vec![PreBind::Patch(ObjectPatch {
            resource: "nodes".into(),
            namespace: "".into(),
            name: node,
            patch: json!({"metadata": {"annotations": {"marked": "yes"}}}),
        })])
    }

    fn bind(&self, _: &scheduler::cluster::Cluster, _: scheduler::framework::Assignment) -> Option<BindMethod> {
        Some(BindMethod::Patch(Arc::new(
            json!({"metadata": {"annotations": {"bound-by": "Marks"}}}),
        )))
    }
}

#[test]
fn what_plugins_write_goes_with_the_binding() {
    let profile = scheduler::Profile::with_default_plugins("default-scheduler");
    let profile = profile.without("DefaultBinder").with(Marks, 0);
    let mut desk = Desk::new(SchedulerConfiguration {
        profiles: vec![profile],
        ..SchedulerConfiguration::default()
    });
    let (node_key, node) = node("n1", "4");
    let (key, object) = pod("web", "1", json!({}));
    desk.observe(&node_key, Some(&node)).unwrap();
    desk.observe(&key, Some(&object)).unwrap();
    let round = desk.round(NOW, 10);
    let group = &round.bindings[0];
    let (_, value) = written(&group.writes[0]);
    assert_eq!(value["spec"]["nodeName"], "n1");
    assert_eq!(value["metadata"]["annotations"]["bound-by"], "Marks");
    // Nodes are not kept: the actor reads the node.
    let merge = json!({"metadata": {"annotations": {"marked": "yes"}}});
    assert_eq!(group.patches, Patches::from([(node_key, merge)]));
}

fn object(resource: &str, name: &str, value: Value) -> (Key, Arc<Object>) {
    let namespace = if resource == "persistentvolumeclaims" {
        "default"
    } else {
        ""
    };
    (Key::new(resource, namespace, name), stored(value, 1))
}

fn claim(volume: Option<&str>) -> (Key, Arc<Object>) {
    let mut value = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "default", "uid": "c"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    if let Some(volume) = volume {
        value["spec"]["volumeName"] = json!(volume);
        value["status"] = json!({"phase": "Bound"});
    }
    object("persistentvolumeclaims", "c", value)
}

#[test]
fn a_claim_gets_its_volume_before_its_pod_is_bound() {
    let uses = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    let volume = object(
        "persistentvolumes",
        "pv",
        json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "pv", "uid": "pv"}, "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}}}),
    );
    let class = object(
        "storageclasses.storage.k8s.io",
        "late",
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "late", "uid": "late"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    let mut desk = desk(&[
        node("n1", "4"),
        class,
        volume.clone(),
        claim(None),
        pod("web", "1", uses),
    ]);
    let round = desk.round(NOW, 10);
    assert!(round.bindings.is_empty());
    let [Intent::Update { key, value, .. }] = &round.volumes[..] else {
        panic!("{:?}", round.volumes)
    };
    assert_eq!(*key, volume.0);
    assert_eq!(value["spec"]["claimRef"]["name"], "c");
    // The claim is bound: so is the pod.
    let (key, bound) = claim(Some("pv"));
    desk.observe(&key, Some(&bound)).unwrap();
    let round = desk.round(NOW.plus_ms(60_000), 10);
    assert_eq!((round.bindings.len(), round.volumes.len()), (1, 0));
}

#[test]
fn pods_of_a_service_are_spread() {
    let labelled = |name: &str| {
        let (key, object) = pod(name, "1", json!({}));
        let mut value = object.value().unwrap();
        value["metadata"]["labels"] = json!({"app": "web"});
        (key, stored(value, 2))
    };
    let service = (
        Key::new("services", "default", "web"),
        stored(
            json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "uid": "s"}, "spec": {"selector": {"app": "web"}}}),
            1,
        ),
    );
    let host = |name: &str, cpu: &str| {
        let (key, object) = node(name, cpu);
        let mut value = object.value().unwrap();
        value["metadata"]["labels"] = json!({"kubernetes.io/hostname": name});
        (key, stored(value, 1))
    };
    // The larger node would be the better one for each of the pods.
    let mut desk = desk(&[
        host("small", "4"),
        host("large", "64"),
        service,
        labelled("a"),
        labelled("b"),
    ]);
    let round = desk.round(NOW, 10);
    let nodes: BTreeSet<String> = round
        .bindings
        .iter()
        .map(|group| {
            written(&group.writes[0]).1["spec"]["nodeName"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(nodes.len(), 2, "{nodes:?}");
}

/// What a write makes of its object, at a revision.
fn committed_at(write: &Write, revision: u64) -> (Key, Arc<Object>) {
    let Write::Put { key, draft, .. } = write else {
        panic!("it is a put")
    };
    (key.clone(), Arc::new(draft.commit(protocol::Revision(revision), None)))
}

fn written(write: &Write) -> (Key, Value) {
    let (key, object) = committed_at(write, 99);
    (key, object.value().unwrap())
}

/// A node with one device, its class, and a claim for such a device.
fn device_world() -> Vec<(Key, Arc<Object>)> {
    let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
        "metadata": {"name": "gpu", "uid": "class"}, "spec": {}});
    let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s", "uid": "s"},
        "spec": {"driver": "d", "nodeName": "n1", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "dev-0"}]}});
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "c", "namespace": "default", "uid": "claim"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    vec![
        node("n1", "4"),
        node("n2", "4"),
        (Key::new("deviceclasses.resource.k8s.io", "", "gpu"), stored(class, 1)),
        (Key::new("resourceslices.resource.k8s.io", "", "s"), stored(slice, 1)),
        (
            Key::new("resourceclaims.resource.k8s.io", "default", "c"),
            stored(claim, 5),
        ),
    ]
}

#[test]
fn a_claim_for_a_device_is_allocated_in_the_proposal_that_binds_its_pod() {
    let mut desk = desk(&device_world());
    let uses = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]});
    let (key, object) = pod("web", "1", uses.clone());
    desk.observe(&key, Some(&object)).unwrap();
    let round = desk.round(NOW, 10);
    let [group] = &round.bindings[..] else {
        panic!("{:?}", round.conditions)
    };
    assert!(group.patches.is_empty());
    assert_eq!(
        written(&group.writes[0]).1["spec"]["nodeName"],
        "n1",
        "that has the device"
    );
    let Write::Put { precondition, .. } = &group.writes[1] else {
        panic!("the claim is put")
    };
    assert_eq!(
        *precondition,
        Precondition::Revision(protocol::Revision(5)),
        "the claim that was decided about"
    );
    let (claim_key, claim) = committed_at(&group.writes[1], 7);
    let value = claim.value().unwrap();
    assert_eq!(
        value["status"]["allocation"]["devices"]["results"][0]["device"],
        "dev-0"
    );
    assert_eq!(value["status"]["reservedFor"][0]["name"], "web");
    // The store shows both: the device is taken, and another claim for it waits.
    desk.observe(&claim_key, Some(&claim)).unwrap();
    let (pod_key, bound) = committed_at(&group.writes[0], 8);
    desk.observe(&pod_key, Some(&bound)).unwrap();
    let mut other = value.clone();
    other["metadata"] = json!({"name": "c2", "namespace": "default", "uid": "claim-2"});
    other["status"] = json!({});
    let second = Key::new("resourceclaims.resource.k8s.io", "default", "c2");
    desk.observe(&second, Some(&stored(other, 9))).unwrap();
    let (key, waits) = pod(
        "late",
        "1",
        json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "c2"}]}),
    );
    desk.observe(&key, Some(&waits)).unwrap();
    let round = desk.round(NOW.plus_ms(1_000), 10);
    assert!(round.bindings.is_empty());
    assert!(
        round.conditions[0].1[0].message.contains("cannot allocate all claims"),
        "{:?}",
        round.conditions[0].1
    );
}

#[test]
fn a_gang_of_which_one_pod_waits_for_a_volume_waits_whole() {
    let group = json!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": "g", "namespace": "default", "uid": "g"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}});
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "late", "uid": "late"},
        "provisioner": "example.com/p", "volumeBindingMode": "WaitForFirstConsumer"});
    let member = |name: &str, volumes: Value| {
        pod(
            name,
            "1",
            json!({"schedulingGroup": {"podGroupName": "g"}, "volumes": volumes}),
        )
    };
    let mut desk = desk(&[
        node("n1", "4"),
        object("storageclasses.storage.k8s.io", "late", class),
        claim(None),
        (
            Key::new("podgroups.scheduling.k8s.io", "default", "g"),
            stored(group, 1),
        ),
        member("a", json!([])),
        member("b", json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}])),
    ]);
    let round = desk.round(NOW, 10);
    assert_eq!(
        (round.bindings.len(), round.volumes.len()),
        (0, 1),
        "{:?}",
        round.conditions
    );
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv", "uid": "pv"},
        "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "default", "name": "c", "uid": "c"}}, "status": {"phase": "Bound"}});
    for (key, bound) in [object("persistentvolumes", "pv", volume), claim(Some("pv"))] {
        desk.observe(&key, Some(&bound)).unwrap();
    }
    let round = desk.round(NOW.plus_ms(120_000), 10);
    assert_eq!(round.bindings.len(), 1, "{:?}", round.conditions);
    assert_eq!(round.bindings[0].pods.len(), 2);
}
