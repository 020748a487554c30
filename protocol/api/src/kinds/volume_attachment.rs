//! storage.k8s.io/v1 VolumeAttachment: its row, validation and columns.

use super::checks::{self, Rule, check};
use super::{Kind, Subresource, cells};
use crate::access::Access;
use crate::cause::Path;
use crate::rules;
use crate::table::Column;

pub const KIND: Kind = Kind {
    namespaced: false,
    subresources: &[Subresource::Status],
    validate: |object, causes| {
        let root = Path::Root;
        let path = root.field("spec");
        let spec = object.at(&["spec"]);
        check(
            spec,
            &path,
            &[("attacher", Rule::RequiredForm(rules::dns_subdomain))],
            causes,
        );
        // An empty name is malformed rather than missing.
        let node = spec.text("nodeName");
        for problem in rules::dns_subdomain(node) {
            causes.invalid(path.field("nodeName"), node, problem);
        }
        let (source, at) = (spec.at(&["source"]), path.field("source"));
        match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
            (false, false) => causes.required(
                at,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (true, true) => {
                causes.forbidden(
                    at,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                );
            }
            _ => {}
        }
    },
    validate_update: |old, new, causes| checks::immutable(old, new, &["spec"], causes),
    columns: &[
        Column::NAME,
        Column::text("Attacher", "The driver that attaches."),
        Column::text("PV", "The volume that is attached."),
        Column::text("Node", "The node that it is attached to."),
        Column::boolean("Attached", "Whether it is attached."),
        Column::AGE,
    ],
    cells: |object, now| {
        vec![
            cells::name(object),
            cells::text(object, &["spec", "attacher"]),
            cells::text(object, &["spec", "source", "persistentVolumeName"]),
            cells::text(object, &["spec", "nodeName"]),
            cells::flag(object, &["status", "attached"]),
            cells::created_ago(object, now),
        ]
    },
    ..row!(
        "storage.k8s.io",
        v1,
        storage,
        VolumeAttachment,
        "volumeattachments",
        "volumeattachment"
    )
};
