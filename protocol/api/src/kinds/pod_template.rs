//! core/v1 PodTemplate: its row, defaults, validation and columns.

use super::{Generation, Kind, apps, cells, pod_spec};
use crate::access::Access;
use crate::cause::Path;
use crate::table::Column;

pub const KIND: Kind = Kind {
    generation: Generation::Spec,
    default: apps::default_template,
    validate: |object, causes| {
        let root = Path::Root;
        pod_spec::template(object.at(&["template"]), &root.field("template"), None, causes);
    },
    columns: &[
        Column::NAME,
        Column::text("Containers", "Names of each container in the template."),
        Column::text("Images", "Images referenced by each container in the template."),
        Column::text("Pod Labels", "The labels for the pod template."),
    ],
    cells: |object, _| {
        let template = object.at(&["template"]);
        let (containers, images) = apps::containers_and_images(template);
        let labels = cells::labels(template.at(&["metadata", "labels"]));
        vec![cells::name(object), containers.into(), images.into(), labels.into()]
    },
    ..row!("", v1, core, PodTemplate, "podtemplates", "podtemplate")
};
