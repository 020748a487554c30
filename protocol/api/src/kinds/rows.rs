//! The table itself: every kind, in the order in which discovery lists groups, and versions of a group by preference.

use super::{
    Kind, admission, api_service, certificates, component_status, config_map, controller_revision, cron_job, csi,
    custom_resource, daemon_set, deployment, endpoint_slice, endpoints, event, event_conversion, flow_control,
    horizontal_pod_autoscaler, ingress, job, lease, limit_range, namespace, network_policy, node, persistent_volume,
    persistent_volume_claim, pod, pod_disruption_budget, pod_template, preview, priority_class, rbac, replica_set,
    replication_controller, resource_claim, resource_quota, resource_slice, reviews, runtime_class, secret, service,
    service_account, service_network, stateful_set, storage_class, volume_attachment,
};

/// Every kind.
pub static ROWS: &[Kind] = &[
    // core
    reviews::BINDING,
    component_status::KIND,
    config_map::KIND,
    endpoints::KIND,
    event::KIND,
    limit_range::KIND,
    namespace::KIND,
    node::KIND,
    persistent_volume_claim::KIND,
    persistent_volume::KIND,
    pod::KIND,
    pod_template::KIND,
    replication_controller::KIND,
    resource_quota::KIND,
    secret::KIND,
    service_account::KIND,
    service::KIND,
    // apiregistration.k8s.io
    api_service::KIND,
    // apps
    controller_revision::KIND,
    daemon_set::KIND,
    deployment::KIND,
    replica_set::KIND,
    stateful_set::KIND,
    // events.k8s.io
    event_conversion::KIND,
    // authentication.k8s.io
    reviews::SELF_SUBJECT_REVIEW,
    reviews::TOKEN_REVIEW,
    // authorization.k8s.io
    reviews::LOCAL_SUBJECT_ACCESS_REVIEW,
    reviews::SELF_SUBJECT_ACCESS_REVIEW,
    reviews::SELF_SUBJECT_RULES_REVIEW,
    reviews::SUBJECT_ACCESS_REVIEW,
    // autoscaling
    horizontal_pod_autoscaler::V2,
    horizontal_pod_autoscaler::V1,
    // batch
    cron_job::KIND,
    job::KIND,
    // certificates.k8s.io
    certificates::SIGNING_REQUEST,
    certificates::TRUST_BUNDLE,
    certificates::POD_REQUEST,
    certificates::TRUST_BUNDLE_V1BETA1,
    // networking.k8s.io
    ingress::CLASS,
    ingress::INGRESS,
    service_network::IP_ADDRESS,
    network_policy::KIND,
    service_network::SERVICE_CIDR,
    // policy
    pod_disruption_budget::KIND,
    // rbac.authorization.k8s.io
    rbac::CLUSTER_ROLE_BINDING,
    rbac::CLUSTER_ROLE,
    rbac::ROLE_BINDING,
    rbac::ROLE,
    // storage.k8s.io
    csi::DRIVER,
    csi::NODE,
    storage_class::CAPACITY,
    storage_class::STORAGE_CLASS,
    volume_attachment::KIND,
    storage_class::ATTRIBUTES_CLASS,
    // admissionregistration.k8s.io
    admission::MUTATING_POLICY,
    admission::MUTATING_BINDING,
    admission::MUTATING_WEBHOOKS,
    admission::VALIDATING_POLICY,
    admission::VALIDATING_BINDING,
    admission::VALIDATING_WEBHOOKS,
    admission::MUTATING_POLICY_V1BETA1,
    admission::MUTATING_BINDING_V1BETA1,
    admission::MUTATING_POLICY_V1ALPHA1,
    admission::MUTATING_BINDING_V1ALPHA1,
    // apiextensions.k8s.io
    custom_resource::KIND,
    // scheduling.k8s.io
    priority_class::KIND,
    preview::POD_GROUP,
    preview::WORKLOAD,
    preview::COMPOSITE_POD_GROUP,
    preview::POD_GROUP_V1ALPHA3,
    preview::WORKLOAD_V1ALPHA3,
    // coordination.k8s.io
    lease::KIND,
    preview::LEASE_CANDIDATE,
    preview::LEASE_CANDIDATE_V1ALPHA2,
    // node.k8s.io
    runtime_class::KIND,
    // discovery.k8s.io
    endpoint_slice::KIND,
    // resource.k8s.io
    resource_claim::CLASS,
    resource_slice::TAINT_RULE,
    resource_claim::CLAIM,
    resource_claim::TEMPLATE,
    resource_slice::SLICE,
    resource_claim::CLASS_V1BETA2,
    resource_slice::TAINT_RULE_V1BETA2,
    resource_claim::CLAIM_V1BETA2,
    resource_claim::TEMPLATE_V1BETA2,
    resource_slice::SLICE_V1BETA2,
    resource_claim::CLASS_V1BETA1,
    resource_claim::CLAIM_V1BETA1,
    resource_claim::TEMPLATE_V1BETA1,
    resource_slice::SLICE_V1BETA1,
    resource_slice::TAINT_RULE_V1ALPHA3,
    resource_slice::POOL_STATUS_REQUEST,
    // flowcontrol.apiserver.k8s.io
    flow_control::FLOW_SCHEMA,
    flow_control::PRIORITY_LEVEL,
    // storagemigration.k8s.io, lifecycle.k8s.io, internal.apiserver.k8s.io
    preview::STORAGE_VERSION_MIGRATION,
    preview::STORAGE_VERSION_MIGRATION_V1BETA1,
    preview::EVICTION_REQUEST,
    preview::EVICTION,
    preview::STORAGE_VERSION,
];
