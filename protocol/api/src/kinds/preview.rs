//! Kinds whose versions are still alpha or beta and which have no stable one: their rows. What they demand is what their
//! schemas demand; their validation beyond that has not settled upstream.

use super::checks::{self, required_by_schema};
use super::{Conversion, Generation, Kind, Subresource, cells};
use crate::access::Access;
use crate::cause::Path;
use crate::table::Column;

pub const LEASE_CANDIDATE: Kind = Kind {
    validate: |object, causes| required_by_schema(LEASE_CANDIDATE.definition, object, &Path::Root, causes),
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec.leaseName"], causes),
    columns: &[
        Column::NAME,
        Column::text("LeaseName", "The lease that it would hold."),
        Column::text("BinaryVersion", "The version of the candidate."),
        Column::text("EmulationVersion", "The version that it behaves as."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            cells::text(object, &["spec", "leaseName"]),
            cells::text(object, &["spec", "binaryVersion"]),
            cells::text(object, &["spec", "emulationVersion"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "coordination.k8s.io",
        v1beta1,
        coordination,
        LeaseCandidate,
        "leasecandidates",
        "leasecandidate"
    )
};

static LEASE_CANDIDATE_STORED: Conversion =
    Conversion::renamed("coordination.k8s.io", "v1beta1", "LeaseCandidate", "leasecandidates");

pub const LEASE_CANDIDATE_V1ALPHA2: Kind = version_of!(
    LEASE_CANDIDATE,
    v1alpha2,
    coordination,
    LeaseCandidate,
    &LEASE_CANDIDATE_STORED
);

pub const POD_GROUP: Kind = Kind {
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    validate: |object, causes| required_by_schema(POD_GROUP.definition, object, &Path::Root, causes),
    ..row!(
        "scheduling.k8s.io",
        v1beta1,
        scheduling,
        PodGroup,
        "podgroups",
        "podgroup"
    )
};

pub const WORKLOAD: Kind = Kind {
    generation: Generation::Spec,
    validate: |object, causes| required_by_schema(WORKLOAD.definition, object, &Path::Root, causes),
    ..row!(
        "scheduling.k8s.io",
        v1beta1,
        scheduling,
        Workload,
        "workloads",
        "workload"
    )
};

static POD_GROUP_STORED: Conversion = Conversion::renamed("scheduling.k8s.io", "v1beta1", "PodGroup", "podgroups");
static WORKLOAD_STORED: Conversion = Conversion::renamed("scheduling.k8s.io", "v1beta1", "Workload", "workloads");

pub const POD_GROUP_V1ALPHA3: Kind = version_of!(POD_GROUP, v1alpha3, scheduling, PodGroup, &POD_GROUP_STORED);
pub const WORKLOAD_V1ALPHA3: Kind = version_of!(WORKLOAD, v1alpha3, scheduling, Workload, &WORKLOAD_STORED);

pub const COMPOSITE_POD_GROUP: Kind = Kind {
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    validate: |object, causes| required_by_schema(COMPOSITE_POD_GROUP.definition, object, &Path::Root, causes),
    ..row!(
        "scheduling.k8s.io",
        v1alpha3,
        scheduling,
        CompositePodGroup,
        "compositepodgroups",
        "compositepodgroup"
    )
};

pub const EVICTION_REQUEST: Kind = Kind {
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    validate: |object, causes| required_by_schema(EVICTION_REQUEST.definition, object, &Path::Root, causes),
    ..row!(
        "lifecycle.k8s.io",
        v1alpha1,
        lifecycle,
        EvictionRequest,
        "evictionrequests",
        "evictionrequest"
    )
};

pub const EVICTION: Kind = Kind {
    subresources: &[Subresource::Status],
    generation: Generation::Spec,
    validate: |object, causes| required_by_schema(EVICTION.definition, object, &Path::Root, causes),
    ..row!(
        "lifecycle.k8s.io",
        v1alpha1,
        lifecycle,
        Eviction,
        "evictions",
        "eviction"
    )
};

pub const STORAGE_VERSION: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    columns: &[
        Column::NAME,
        Column::text(
            "CommonEncodingVersion",
            "The version that all servers store, if they agree.",
        ),
        Column::text("StorageVersions", "The version that each server stores."),
        Column::AGE,
    ],
    cells: |object, now| {
        let servers = object.at(&["status"]).items("storageVersions").iter();
        let versions: Vec<String> = servers
            .map(|server| format!("{}={}", server.text("apiServerID"), server.text("encodingVersion")))
            .collect();
        vec![
            cells::name(object),
            cells::text_or(object, &["status", "commonEncodingVersion"], "<unset>"),
            versions.join(",").into(),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "internal.apiserver.k8s.io",
        v1alpha1,
        apiserverinternal,
        StorageVersion,
        "storageversions",
        "storageversion"
    )
};

pub const STORAGE_VERSION_MIGRATION: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    validate: |object, causes| required_by_schema(STORAGE_VERSION_MIGRATION.definition, object, &Path::Root, causes),
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec.resource"], causes),
    columns: &[
        Column::NAME,
        Column::text("Resource", "What is migrated: its resource and group."),
    ],
    cells: |object, _| {
        let resource = object.at(&["spec", "resource"]);
        let shown = match resource.text("group") {
            "" => resource.text("resource").to_owned(),
            group => format!("{}.{group}", resource.text("resource")),
        };
        vec![cells::name(object), shown.into()]
    },
    ..row!(
        "storagemigration.k8s.io",
        v1,
        storagemigration,
        StorageVersionMigration,
        "storageversionmigrations",
        "storageversionmigration"
    )
};

static STORAGE_VERSION_MIGRATION_STORED: Conversion = Conversion::renamed(
    "storagemigration.k8s.io",
    "v1",
    "StorageVersionMigration",
    "storageversionmigrations",
);

pub const STORAGE_VERSION_MIGRATION_V1BETA1: Kind = version_of!(
    STORAGE_VERSION_MIGRATION,
    v1beta1,
    storagemigration,
    StorageVersionMigration,
    &STORAGE_VERSION_MIGRATION_STORED
);
