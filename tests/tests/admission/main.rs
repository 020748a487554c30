//! Admission by others: webhooks at a URL and behind a Service, policies in CEL, and an API that another server serves; with
//! the unmodified kubectl against real nodes.

mod aggregated;
mod conversion;
mod policies;
mod webhooks;

use std::net::Ipv4Addr;
use std::time::Duration;

use tests::{Cluster, Kubectl, wait_for};

/// How long what is written may take to be heard of by a node.
const HEARD: Duration = Duration::from_secs(10);

/// A cluster, and kubectl on the node that the test speaks to: not the leader, where there is another.
struct World {
    cluster: Cluster,
    kubectl: Kubectl,
}

impl World {
    fn new(number: u8, nodes: usize) -> World {
        let cluster = Cluster::start(number, nodes);
        let kubectl = cluster.kubectl(nodes - 1);
        World { cluster, kubectl }
    }

    /// The address of the test itself, as nodes reach it.
    fn own_address(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.cluster.nodes[0].machine.address.octets();
        Ipv4Addr::new(a, b, c, 254)
    }

    /// Tries to create a ConfigMap without storing it, until it is refused so.
    fn until_refused(&self, literal: &str, expected: &str) {
        let create = format!("create configmap probe --from-literal={literal} --dry-run=server");
        wait_for(&format!("a refusal: {expected}"), HEARD, || {
            let output = self.kubectl.output(&create);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() && said.contains(expected) {
                Ok(())
            } else {
                Err(format!("{}{said}", String::from_utf8_lossy(&output.stdout)))
            }
        });
    }

    /// Tries until it passes.
    fn until_passed(&self, literal: &str) {
        let create = format!("create configmap probe --from-literal={literal} --dry-run=server");
        wait_for("it passes", HEARD, || {
            let output = self.kubectl.output(&create);
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        });
    }
}

#[test]
fn webhooks_and_policies_judge_what_kubectl_writes() {
    let world = World::new(1, 2);
    webhooks::change_and_refuse(&world);
    webhooks::give_no_answer(&world);
    policies::refuse_and_change(&world);
    webhooks::judge_what_controllers_create(&world);
}

#[test]
fn an_api_of_another_server_is_served_by_every_node() {
    let world = World::new(2, 2);
    aggregated::is_listed_served_and_missed(&world);
}

#[test]
fn custom_objects_are_converted_by_their_webhook() {
    let world = World::new(3, 2);
    conversion::between_versions(&world);
}
