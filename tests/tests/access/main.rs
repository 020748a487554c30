//! Who gets in, what they are let through to and what is told of it, on a cluster of two nodes: tokens in pods, the audit log,
//! the proxy, evictions under budgets, token discovery, certificates on request, what webhooks and
//! aggregated APIs say and get, fairness under a flood.
//!
//! One cluster carries all checks. A check that fails does not hide the others: the test names all that failed.

mod audit;
mod budgets;
mod certificates;
mod extended;
mod fairness;
mod issuer;
mod proxy;
mod tokens;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use tests::{Cluster, Kubectl, NodeOptions};

/// Nothing here takes longer.
const SOON: Duration = Duration::from_secs(30);

type Check = fn(&Cluster, &Kubectl);

const CHECKS: [(&str, Check); 17] = [
    ("in-cluster", tokens::a_program_in_a_pod_calls_the_api),
    ("bound", tokens::a_token_is_bound_to_its_pod),
    ("audience", tokens::a_pod_gets_the_tokens_that_it_asks_for),
    ("start", tokens::a_token_costs_a_pods_start_little),
    ("audit", audit::requests_are_written_down),
    ("audit-watch", audit::long_requests_have_two_events),
    ("proxy", proxy::requests_go_through),
    ("proxy-refusals", proxy::refusals_are_kubernetes_own),
    ("issuer", issuer::tokens_can_be_verified_elsewhere),
    ("levels", fairness::answers_name_their_priority_level),
    ("certificates", certificates::approved_requests_are_signed),
    ("secret-tokens", certificates::secrets_are_filled_with_tokens),
    ("aggregation", certificates::aggregating_roles_show_their_rules),
    ("audit-admission", extended::what_webhooks_and_policies_say_is_audited),
    ("aggregated-streams", extended::an_aggregated_api_gets_what_was_sent),
    ("budgets", budgets::evictions_keep_to_the_budget),
    ("fairness", fairness::a_flood_does_not_slow_others),
];

#[test]
fn access() {
    let mut cluster = Cluster::empty(17);
    let arguments = audit::arguments(cluster.directory());
    cluster.add(NodeOptions {
        arguments,
        ..NodeOptions::default()
    });
    cluster.add(NodeOptions::default());
    cluster.import_images(0);
    cluster.import_images(1);
    let client = cluster.kubectl(0);
    let failed: Vec<&str> = CHECKS
        .iter()
        .filter(|(_, check)| std::panic::catch_unwind(AssertUnwindSafe(|| check(&cluster, &client))).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}\n{}", cluster.logs());
}
