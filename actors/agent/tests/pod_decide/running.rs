//! What changes in a pod that runs: ephemeral containers and resizes.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;

/// Has a container ask for so much cpu.
pub fn ask(pod: &mut Pod, container: &str, milli: u64) {
    let spec = pod.spec.as_mut().unwrap();
    let container = spec
        .containers
        .iter_mut()
        .find(|known| known.name == container)
        .unwrap();
    let cpu = [("cpu".to_owned(), Quantity(format!("{milli}m")))];
    let resources = container.resources.get_or_insert_default();
    resources.limits = Some(cpu.clone().into());
    resources.requests = Some(cpu.into());
}

fn sized(policy: &str) -> Pod {
    let mut pod = one_container(policy);
    ask(&mut pod, "c", 100);
    pod
}

impl World {
    fn resize(&mut self, milli: u64) {
        let mut asks = self.state.pod.clone();
        asks.metadata.generation = Some(2);
        ask(&mut asks, "c", milli);
        self.tell(Event::PodChanged(Box::new(asks)));
    }

    fn condition(&self, kind: &str) -> Option<(String, String)> {
        let all = status(&self.state, self.now).conditions.unwrap_or_default();
        let found = all.into_iter().find(|condition| condition.type_ == kind)?;
        assert_eq!(found.observed_generation, Some(2));
        Some((found.reason.unwrap_or_default(), found.message.unwrap_or_default()))
    }

    /// What the status says that the container was granted and has in force.
    fn told(&self) -> (String, String) {
        let container = status(&self.state, self.now).container_statuses.unwrap().remove(0);
        let text = |list: Option<std::collections::BTreeMap<String, Quantity>>| list.unwrap()["cpu"].0.clone();
        (
            text(container.allocated_resources),
            text(container.resources.unwrap().limits),
        )
    }
}

#[test]
fn a_resize_is_granted_and_put_in_force_without_a_restart() {
    let mut world = World::new(sized("Always"));
    assert_eq!(world.told(), ("100m".into(), "100m".into()));
    world.resize(250);
    assert_eq!(
        (world.asked.as_slice(), world.in_force.as_slice()),
        (&[250][..], &[("c".to_owned(), Some(250))][..])
    );
    assert_eq!(world.told(), ("250m".into(), "250m".into()));
    assert_eq!(world.started.len(), 1);
    assert!(world.signals.is_empty());
    assert_eq!(world.condition("PodResizeInProgress"), None);
    assert!(
        world.events.ends_with(&["ResizeStarted", "ResizeCompleted"]),
        "{:?}",
        world.events
    );
}

#[test]
fn what_the_node_does_not_grant_is_pending_and_asked_again() {
    let mut world = World::new(sized("Always"));
    world.shortage = Some(Shortage::Deferred("full".into()));
    world.resize(500);
    assert_eq!(
        world.condition("PodResizePending"),
        Some(("Deferred".into(), "full".into()))
    );
    assert_eq!(world.told(), ("100m".into(), "100m".into()), "it keeps what it has");
    world.exit("c", 1);
    assert_eq!(world.started.len(), 2, "and is started with that");
    world.pass(4_999);
    assert_eq!(world.asked.len(), 1);
    world.shortage = None;
    world.pass(1);
    assert_eq!(world.told(), ("500m".into(), "500m".into()));
    assert_eq!(world.condition("PodResizePending"), None);
    world.shortage = Some(Shortage::Infeasible("too small".into()));
    world.resize(9_000);
    world.pass(1_000_000);
    assert_eq!(world.asked.len(), 3, "what cannot be is not asked again");
    assert_eq!(world.condition("PodResizePending").unwrap().0, "Infeasible");
    world.resize(500);
    assert_eq!(world.condition("PodResizePending"), None, "it asks for what it has");
}

#[test]
fn a_failure_is_told_and_tried_again() {
    let mut world = World::new(sized("Always"));
    world.resize_fails = true;
    world.resize(50);
    let (reason, message) = world.condition("PodResizeInProgress").unwrap();
    assert!(
        reason == "Error" && message.contains("below current usage"),
        "{reason}: {message}"
    );
    assert_eq!(world.told(), ("50m".into(), "100m".into()), "granted, not in force");
    world.resize_fails = false;
    world.pass(5_000);
    assert_eq!(world.told(), ("50m".into(), "50m".into()));
    assert_eq!(world.condition("PodResizeInProgress"), None);
}

#[test]
fn a_container_whose_policy_says_so_is_started_again() {
    for policy in ["Always", "OnFailure"] {
        let mut pod = sized(policy);
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        container.resize_policy =
            serde_json::from_value(json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])).unwrap();
        let mut world = World::new(pod);
        world.resize(200);
        assert_eq!(world.signals, ["c"]);
        assert!(world.in_force.is_empty(), "nothing changes under it");
        assert!(world.condition("PodResizeInProgress").is_some());
        world.pass(30_000);
        assert_eq!(world.signal_numbers, [SIGTERM, 9], "its time is over");
        world.exit("c", 0);
        assert_eq!(world.started, [("c".to_owned(), 0), ("c".to_owned(), 1)]);
        assert!(world.running("c"), "whatever the restart policy is");
        assert_eq!(
            world.in_force,
            [("c".to_owned(), Some(200))],
            "the pod's own limits first"
        );
        assert_eq!(phase(&world.state), Phase::Running);
        assert_eq!(world.condition("PodResizeInProgress"), None);
    }
}

#[test]
fn a_later_agent_goes_on_from_what_the_status_tells() {
    let mut world = World::new(sized("Always"));
    world.shortage = Some(Shortage::Deferred("full".into()));
    world.resize(500);
    let mut found = sized("Always");
    found.metadata.generation = Some(2);
    ask(&mut found, "c", 500);
    found.status = Some(status(&world.state, world.now));
    let mut later = World::new(found.clone());
    assert_eq!(later.asked, [500], "it asks its node again");
    found.status = Some(status(&later.state, later.now));
    later = World::new(found);
    assert!(later.asked.is_empty(), "it has what it asks for");
    assert_eq!(later.told(), ("500m".into(), "500m".into()));
}

fn debugged(target: &str) -> Event {
    let mut pod = one_container("Always");
    let ephemeral =
        json!([{"name": "debugger", "image": "i", "targetContainerName": target, "stdin": true, "tty": true}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(ephemeral).unwrap();
    Event::PodChanged(Box::new(pod))
}

#[test]
fn an_ephemeral_container_is_started_once() {
    let mut world = World::new(one_container("Always"));
    world.tell(debugged("c"));
    assert_eq!(world.started.last(), Some(&("debugger".to_owned(), 0)));
    assert_eq!(world.targets.last(), Some(&Some("c".to_owned())));
    let told = |world: &World| {
        status(&world.state, world.now)
            .ephemeral_container_statuses
            .unwrap()
            .remove(0)
    };
    assert!(told(&world).state.unwrap().running.is_some() && !told(&world).ready);
    world.exit("debugger", 3);
    world.tell(debugged("c"));
    world.pass(1_000_000);
    assert_eq!(world.started.len(), 2, "it is not started again");
    assert_eq!(told(&world).state.unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!(phase(&world.state), Phase::Running);
    world.tell(Event::SandboxDied("test".into()));
    assert_eq!(world.started.len(), 3, "nor with a new sandbox: {:?}", world.started);
    world.delete(1);
    world.pass(1_000);
    assert!(world.stopped);
}

#[test]
fn an_ephemeral_container_waits_for_its_target() {
    let mut world = World::new(one_container("Always"));
    world.exit("c", 1);
    world.exit("c", 1);
    assert!(!world.running("c"), "it backs off");
    world.tell(debugged("c"));
    let waiting = |world: &World| {
        let told = status(&world.state, world.now)
            .ephemeral_container_statuses
            .unwrap()
            .remove(0);
        told.state.unwrap().waiting
    };
    let why = waiting(&world).unwrap();
    assert_eq!(why.reason.as_deref(), Some("CreateContainerConfigError"));
    assert!(why.message.unwrap().contains("unable to find target container \"c\""));
    world.pass(10_000);
    assert!(world.running("c"));
    world.pass(10_000);
    assert_eq!(waiting(&world), None);
    assert_eq!(world.started.last(), Some(&("debugger".to_owned(), 0)));
}
